"""Detects a class that is defined by example images, by words, or by both, and compares the three.

python examples/image_prompts.py shelf.jpg --name "our jar" --words jar --examples jar1.jpg jar2.jpg
"""

import argparse
from pathlib import Path

from openvocab import OpenVocabDetector


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", type=Path)
    parser.add_argument("--name", default="our bus", help="name of the class")
    parser.add_argument("--words", nargs="+", default=["bus"], metavar="WORD")
    # An example image is a Path (or a BGR array): a string would be taken for a word.
    parser.add_argument("--examples", nargs="+", type=Path, required=True, metavar="FILE")
    arguments = parser.parse_args()

    detector = OpenVocabDetector.from_preset("starter")
    definitions = {
        "words": arguments.words,
        "examples": arguments.examples,
        "both": [*arguments.words, *arguments.examples],
    }
    for kind, prompts in definitions.items():
        detections = detector.detect(arguments.image, {arguments.name: prompts})
        print(f"{arguments.name!r} by {kind}: {len(detections)} found")
        for xyxy, _, score, _, _, data in detections:
            box = xyxy.astype(int).tolist()
            print(f"  at {box}, score {score:.2f}, cosine {data['similarity']:.2f}")


if __name__ == "__main__":
    main()
