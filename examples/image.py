"""Detects objects in an image, prints the parts of each score, and saves the annotated image.

python examples/image.py street.jpg --classes bus pedestrian "traffic light"
"""

import argparse

import cv2

from openvocab import annotate, detect


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image")
    parser.add_argument("--classes", nargs="+", default=["bus", "pedestrian"], metavar="WORD")
    parser.add_argument("--save", default="labelled.jpg", metavar="FILE")
    arguments = parser.parse_args()

    detections = detect(arguments.image, arguments.classes)
    for xyxy, _, score, _, _, data in detections:
        print(f"{data['class_name']} {score:.2f}, at {xyxy.astype(int).tolist()}")
        print(f"  there is an object: {data['objectness']:.2f}", end="")
        print(f" (the detector calls it {data['proposal_label']!r})")
        print(f"  it is of this class: {data['posterior']:.2f}", end="")
        print(f" (cosine {data['similarity']:.2f}, margin {data['margin']:+.2f})")
    cv2.imwrite(arguments.save, annotate(arguments.image, detections))
    print(f"{len(detections)} objects, drawn in {arguments.save}")


if __name__ == "__main__":
    main()
