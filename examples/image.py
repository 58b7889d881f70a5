"""Finds things in a photo, prints what each score is made of, and saves the labelled photo.

python examples/image.py street.jpg --classes bus pedestrian "traffic light"
"""

import argparse

import cv2

from openvocab import annotate, detect


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo")
    parser.add_argument("--classes", nargs="+", default=["bus", "pedestrian"], metavar="WORD")
    parser.add_argument("--save", default="labelled.jpg", metavar="FILE")
    arguments = parser.parse_args()

    found = detect(arguments.photo, arguments.classes)
    for row, score in enumerate(found.confidence):
        part = {name: column[row] for name, column in found.data.items()}
        print(f"{part['class_name']} {score:.2f}, at {found.xyxy[row].astype(int).tolist()}")
        print(f"  something is there: {part['objectness']:.2f}", end="")
        print(f" (the detector calls it {part['proposal_label']!r})")
        print(f"  it is this, not something else: {part['posterior']:.2f}", end="")
        print(f" (cosine {part['similarity']:.2f}, margin {part['margin']:+.2f})")
    cv2.imwrite(arguments.save, annotate(arguments.photo, found))
    print(f"{len(found)} things, drawn in {arguments.save}")


if __name__ == "__main__":
    main()
