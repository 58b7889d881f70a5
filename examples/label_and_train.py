"""Labels a folder of images with your classes, and trains a small YOLO on the labels.

python examples/label_and_train.py photos/ --classes bus person
"""

import argparse
from pathlib import Path

import cv2
from ultralytics import YOLO

from openvocab import OpenVocabDetector
from openvocab.io import LabelledImage, write_labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--classes", nargs="+", default=["bus", "person"], metavar="WORD")
    parser.add_argument("--labels", type=Path, default=Path("labelled"), metavar="FOLDER")
    parser.add_argument("--model", default="yolo26n.yaml", help="or yolo26n.pt, trained")
    arguments = parser.parse_args()
    detector = OpenVocabDetector.from_preset("starter")
    labelled = []
    for path in sorted(arguments.folder.glob("*.jpg")):
        image = cv2.imread(str(path))
        detections = detector.detect(image, arguments.classes, score_threshold=0.4)
        labelled.append(LabelledImage(path, (image.shape[1], image.shape[0]), detections))
    data = write_labels("yolo", labelled, arguments.classes, arguments.labels)
    boxes = sum(len(image.detections) for image in labelled)
    print(f"{boxes} boxes; correct them in {arguments.labels}")

    # One short epoch on the CPU shows that it runs; a useful model needs hundreds of images.
    yolo, runs = YOLO(arguments.model), Path("trained").resolve()
    yolo.train(data=data, epochs=1, imgsz=160, device="cpu", workers=0, plots=False, project=runs)
    print(f"trained: {yolo.trainer.last}")


if __name__ == "__main__":
    main()
