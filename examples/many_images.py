"""Looks through a folder of photos, one batch at a time; the words are encoded once and kept.

python examples/many_images.py photos/ --classes bus pedestrian dog
"""

import argparse
from collections import Counter
from pathlib import Path

from openvocab import OpenVocabDetector, Vocabulary

BATCH = 16  # photos in memory at once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--classes", nargs="+", default=["bus", "pedestrian"], metavar="WORD")
    parser.add_argument("--keep", default="classes.npz", type=Path, metavar="FILE")
    arguments = parser.parse_args()

    detector = OpenVocabDetector.from_preset("starter")
    detector.vocabulary(arguments.classes, negatives=["tram"]).save(arguments.keep)
    # A later run, on any machine with the same preset, can begin here.
    vocabulary = Vocabulary.load(arguments.keep)

    photos = sorted(arguments.folder.glob("*.jpg"))
    for first in range(0, len(photos), BATCH):
        batch = photos[first : first + BATCH]
        for photo, found in zip(batch, detector.detect_batch(batch, vocabulary), strict=True):
            counts = Counter(found.data["class_name"])
            said = ", ".join(f"{number} {name}" for name, number in counts.items())
            print(f"{photo.name}: {said or 'nothing'}")


if __name__ == "__main__":
    main()
