"""Tracks other classes with your own YOLO model, and restores the model afterwards.

python examples/ultralytics_plugin.py yolo.onnx street.mp4 --classes bus pedestrian
"""

import argparse

from ultralytics import YOLO

from openvocab.plugins.ultralytics import attach


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="any detect or segment model of Ultralytics: .pt, .onnx, ...")
    parser.add_argument("video")
    parser.add_argument("--classes", nargs="+", default=["bus", "pedestrian"], metavar="CLASS")
    arguments = parser.parse_args()

    yolo = YOLO(arguments.model, task="detect")
    handle = attach(yolo, arguments.classes)
    track_classes: dict[int, str] = {}
    # A low conf: boxes that the model drops itself cannot be classified.
    for result in yolo.track(arguments.video, stream=True, conf=0.05, verbose=False):
        for box in result.summary():
            if "track_id" in box:
                track_classes[box["track_id"]] = box["name"]
    for track_id, class_name in sorted(track_classes.items()):
        print(f"track {track_id}: {class_name}")

    handle.detach()
    result = next(yolo.predict(arguments.video, stream=True, verbose=False))
    print("without it:", ", ".join(sorted({box["name"] for box in result.summary()})))


if __name__ == "__main__":
    main()
