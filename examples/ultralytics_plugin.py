"""Makes a YOLO model that you already use answer in other words, and restores it afterwards.

python examples/ultralytics_plugin.py yolo.onnx street.mp4 --classes bus pedestrian
"""

import argparse

from ultralytics import YOLO

from openvocab.plugins.ultralytics import attach


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="any detect model of Ultralytics: .pt, .onnx, ...")
    parser.add_argument("film")
    parser.add_argument("--classes", nargs="+", default=["bus", "pedestrian"], metavar="WORD")
    arguments = parser.parse_args()

    yolo = YOLO(arguments.model, task="detect")
    attached = attach(yolo, arguments.classes)
    names: dict[int, str] = {}
    # A low conf: a box that the model itself drops cannot be named.
    for result in yolo.track(arguments.film, stream=True, conf=0.05, verbose=False):
        names |= {each["track_id"]: each["name"] for each in result.summary() if "track_id" in each}
    for track, name in sorted(names.items()):
        print(f"track {track}: {name}")

    attached.detach()
    result = next(yolo.predict(arguments.film, stream=True, verbose=False))
    print("without it:", ", ".join(sorted({each["name"] for each in result.summary()})))


if __name__ == "__main__":
    main()
