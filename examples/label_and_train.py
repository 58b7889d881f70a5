"""Labels a folder of photos in your words, and trains a small YOLO on the labels.

python examples/label_and_train.py photos/ --classes bus person
"""

import argparse
from pathlib import Path

import cv2
from ultralytics import YOLO

from openvocab import OpenVocabDetector
from openvocab.io.labels import LabelledImage, write_labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--classes", nargs="+", default=["bus", "person"], metavar="WORD")
    parser.add_argument("--labels", type=Path, default=Path("labelled"), metavar="FOLDER")
    parser.add_argument("--model", default="yolo26n.yaml", help="or yolo26n.pt, trained")
    arguments = parser.parse_args()
    detector = OpenVocabDetector.from_preset("starter")
    pictures = []
    for path in sorted(arguments.folder.glob("*.jpg")):
        if (photo := cv2.imread(str(path))) is None:
            continue  # not a picture
        found = detector.detect(photo, arguments.classes, score_threshold=0.4)
        pictures.append(LabelledImage(path, (photo.shape[1], photo.shape[0]), found))
    data = write_labels("yolo", pictures, arguments.classes, arguments.labels)
    print(f"{sum(len(each.found) for each in pictures)} boxes; correct them in {arguments.labels}")

    # One short epoch on the CPU shows that it runs; a useful model needs hundreds of photos.
    yolo, here = YOLO(arguments.model), Path("trained").resolve()
    yolo.train(data=data, epochs=1, imgsz=160, device="cpu", workers=0, plots=False, project=here)
    print(f"trained: {yolo.trainer.last}")


if __name__ == "__main__":
    main()
