"""Finds a class that is given by example pictures, by words, or by both, and compares the three.

python examples/image_prompts.py shelf.jpg --name "our jar" --words jar --pictures jar1.jpg jar2.jpg
"""

import argparse
from pathlib import Path

from openvocab import OpenVocabDetector


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--name", default="our bus", help="what to call the class")
    parser.add_argument("--words", nargs="+", default=["bus"], metavar="WORD")
    # An example picture is a Path (or a BGR array): a string would be taken for a word.
    parser.add_argument("--pictures", nargs="+", type=Path, required=True, metavar="FILE")
    arguments = parser.parse_args()

    detector = OpenVocabDetector.from_preset("starter")
    told = {
        "words": arguments.words,
        "pictures": arguments.pictures,
        "both": [*arguments.words, *arguments.pictures],
    }
    for way, parts in told.items():
        found = detector.detect(arguments.photo, {arguments.name: parts})
        print(f"{arguments.name!r} by {way}: {len(found)} found")
        for box, score, cosine in zip(
            found.xyxy.astype(int).tolist(), found.confidence, found.data["similarity"], strict=True
        ):
            print(f"  at {box}, score {score:.2f}, cosine {cosine:.2f}")


if __name__ == "__main__":
    main()
