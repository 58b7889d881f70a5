"""Looks at a large photo piece by piece, with supervision's slicer, so that small things are found.

python examples/slicing.py crowd.jpg --classes person --side 640
"""

import argparse

import cv2
import numpy as np
import supervision as sv

from openvocab import OpenVocabDetector, annotate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo")
    parser.add_argument("--classes", nargs="+", default=["person"], metavar="WORD")
    parser.add_argument("--side", type=int, default=640, help="of a piece, in pixels")
    parser.add_argument("--save", default="sliced.jpg", metavar="FILE")
    arguments = parser.parse_args()

    detector = OpenVocabDetector.from_preset("starter")

    def look(piece: np.ndarray) -> sv.Detections:
        return detector.detect(piece, arguments.classes)

    # IOS: where an edge cuts a thing, the part lies inside the whole, and is dropped.
    more = {"overlap_wh": arguments.side // 4, "overlap_metric": sv.OverlapMetric.IOS}
    slicer = sv.InferenceSlicer(look, slice_wh=arguments.side, **more)
    photo = cv2.imread(arguments.photo)
    found = slicer(photo)
    print(f"{len(look(photo))} in the whole photo, {len(found)} piece by piece")
    cv2.imwrite(arguments.save, annotate(photo, found))


if __name__ == "__main__":
    main()
