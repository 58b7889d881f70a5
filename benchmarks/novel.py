"""Things that the detector has no name for: by their names, by one example picture, and by both.

    .venv/bin/python benchmarks/novel.py PHOTOS/animals --others ../shared/data/coco-dev/images

PHOTOS/animals has a folder of photos for each class, named as the class. The most confident box of
the first photo is the example picture (the first photo in which that box is not a person, who may
hold the thing); the others are searched for the class, one class at a time.
Photos count, not boxes: a photo of the class in which it is detected is a true positive, and
another photo in which it is detected is a false positive, weighted as if there were as many photos
of the class as others. So F1 = 2 TPR / (1 + TPR + FPR).
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import supervision as sv
from rich.progress import track

from openvocab import Example, OpenVocabDetector, OpenVocabError
from openvocab.io._images import find_images
from openvocab.types import EncodedRegions

THRESHOLDS = np.arange(3, 20) / 20
MIN_SCORE = 0.15  # lower ones would need ten times as many boxes


def encode(
    detector: OpenVocabDetector, photos: Sequence[Path], description: str
) -> Iterator[tuple[Path, EncodedRegions]]:
    """The regions of each photo that can be read."""
    for photo in track(photos, description=description, transient=True):
        try:
            yield photo, detector.encode_image(photo, score_threshold=MIN_SCORE)
        except OpenVocabError as error:
            print(error)  # noqa: T201


def best_scores(
    detector: OpenVocabDetector, regions: Sequence[EncodedRegions], classes: Mapping[str, Any]
) -> tuple[np.ndarray, float]:
    """The best score of the class in each photo, and how many boxes reach the threshold."""
    vocabulary = detector.vocabulary(dict(classes))
    results: list[sv.Detections] = [
        detector.classify(photo, vocabulary, score_threshold=MIN_SCORE) for photo in regions
    ]
    threshold = detector.preset.scoring.score_threshold
    boxes = [int((detections.confidence >= threshold).sum()) for detections in results]
    scores = [float(detections.confidence.max(initial=0)) for detections in results]
    return np.array(scores), float(np.mean(boxes))


def f1(own: np.ndarray, others: np.ndarray, threshold: float) -> float:
    """F1 over photos, as if there were as many of the class as others."""
    recall, false_positive_rate = (own >= threshold).mean(), (others >= threshold).mean()
    return float(2 * recall / (1 + recall + false_positive_rate))


def _top_label(regions: EncodedRegions) -> int | None:
    """The detector's label of the most confident box, if there is a box."""
    proposals = regions.proposals
    if not len(proposals):
        return None
    return int(proposals.label_ids[proposals.objectness.argmax()])


def measure(detector: OpenVocabDetector, folder: Path, others: Path) -> dict[str, Any]:
    """F1 and false boxes of each class, by name, by one example and by both."""
    other_regions = [regions for _, regions in encode(detector, find_images([others]), "others")]
    people = {None, detector.proposer.labels.index("person")}
    rows = []
    for class_folder in sorted(path for path in folder.iterdir() if path.is_dir()):
        name = class_folder.name
        photos = list(encode(detector, find_images([class_folder]), name))
        position = next(
            i for i, (_, regions) in enumerate(photos) if _top_label(regions) not in people
        )
        photo, regions = photos.pop(position)
        box = regions.proposals.xyxy[int(regions.proposals.objectness.argmax())]
        example = Example(photo, tuple(box.tolist()))
        own_regions = [regions for _, regions in photos]
        row: dict[str, Any] = {"class": name, "photos": len(photos)}
        queries = {"name": [name], "example": [example], "both": [name, example]}
        for query, parts in queries.items():
            own, _ = best_scores(detector, own_regions, {name: parts})
            others_scores, false_boxes = best_scores(detector, other_regions, {name: parts})
            curve = [f1(own, others_scores, threshold) for threshold in THRESHOLDS]
            row[query] = {
                "F1": f1(own, others_scores, detector.preset.scoring.score_threshold),
                "best_F1": max(curve),
                "best_threshold": float(THRESHOLDS[int(np.argmax(curve))]),
                "false_boxes_per_photo": false_boxes,
            }
        rows.append(row)
        cells = [f"{row[q]['F1']:.2f} ({row[q]['best_F1']:.2f})" for q in queries]
        print(f"{name:24} {len(photos):4}", *cells, flush=True)  # noqa: T201
    return {
        "preset": detector.preset.name,
        "classes": rows,
        "mean": {
            query: {
                key: float(np.mean([row[query][key] for row in rows]))
                for key in ("F1", "best_F1", "false_boxes_per_photo")
            }
            for query in ("name", "example", "both")
        },
    }


def main() -> None:
    """Measure, and print the table and the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder of photos for each class")
    parser.add_argument("--others", type=Path, required=True, help="photos of other things")
    parser.add_argument("--preset", default="starter")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    detector = OpenVocabDetector.from_preset(options.preset)
    result = measure(detector, options.folder, options.others)
    print(json.dumps(result["mean"], indent=1))  # noqa: T201
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
