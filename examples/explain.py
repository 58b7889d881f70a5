"""Looks at a photo once, names what is there in several vocabularies, and says why.

python examples/explain.py street.jpg
"""

import argparse

from openvocab import OpenVocabDetector

VOCABULARIES = [["bus", "person"], ["vehicle", "pedestrian"], ["minibus", "man", "woman"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo")
    arguments = parser.parse_args()

    detector = OpenVocabDetector.from_preset("starter")
    regions = detector.regions(arguments.photo)  # both networks run here, and only here
    for classes in VOCABULARIES:
        print(f"asked for {', '.join(classes)}:")
        found = detector.name(regions, classes)
        for box, name, score in zip(
            found.xyxy, found.data["class_name"], found.confidence, strict=True
        ):
            shares = detector.explain(regions, box, classes)
            rivals = sorted((each for each in shares if each.name != name), key=lambda s: -s.share)
            against = ", ".join(
                f"{each.name} ({each.kind}) {each.share:.2f}" for each in rivals[:2]
            )
            print(f"  {name} {score:.2f}, against {against}")


if __name__ == "__main__":
    main()
