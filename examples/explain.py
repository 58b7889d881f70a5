"""Encodes an image once, classifies its regions with several class lists, and explains the results.

python examples/explain.py street.jpg
"""

import argparse

from openvocab import OpenVocabDetector

CLASS_LISTS = [["bus", "person"], ["vehicle", "pedestrian"], ["minibus", "man", "woman"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image")
    arguments = parser.parse_args()

    detector = OpenVocabDetector.from_preset("starter")
    regions = detector.encode_image(arguments.image)  # both networks run here, and only here
    for classes in CLASS_LISTS:
        print(f"classes {', '.join(classes)}:")
        for _, _, score, _, _, data in detector.classify(regions, classes):
            name = data["class_name"]
            contributions = detector.explain(regions, data["region_id"], classes)
            rivals = [rival for rival in contributions if rival.name != name]
            rivals.sort(key=lambda rival: -rival.share)
            others = ", ".join(
                f"{rival.name} ({rival.kind}) {rival.share:.2f}" for rival in rivals[:2]
            )
            print(f"  {name} {score:.2f}, against {others}")


if __name__ == "__main__":
    main()
