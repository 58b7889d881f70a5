"""Detects small objects in a large image, slice by slice, with supervision's slicer.

python examples/slicing.py crowd.jpg --classes person --side 640
"""

import argparse

import cv2
import numpy as np
import supervision as sv

from openvocab import OpenVocabDetector, annotate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image")
    parser.add_argument("--classes", nargs="+", default=["person"], metavar="WORD")
    parser.add_argument("--side", type=int, default=640, help="of a slice, in pixels")
    parser.add_argument("--save", default="sliced.jpg", metavar="FILE")
    arguments = parser.parse_args()

    detector = OpenVocabDetector.from_preset("starter")

    def detect(image: np.ndarray) -> sv.Detections:
        return detector.detect(image, arguments.classes)

    # IOS: where an edge cuts an object, the part lies inside the whole, and is dropped.
    overlap = {"overlap_wh": arguments.side // 4, "overlap_metric": sv.OverlapMetric.IOS}
    slicer = sv.InferenceSlicer(detect, slice_wh=arguments.side, **overlap)
    image = cv2.imread(arguments.image)
    detections = slicer(image)
    print(f"{len(detect(image))} in the whole image, {len(detections)} slice by slice")
    cv2.imwrite(arguments.save, annotate(image, detections))


if __name__ == "__main__":
    main()
