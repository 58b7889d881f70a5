"""Choose the numbers of the starter preset on photos that nothing was trained on.

Boxes and features are computed once and replayed through `OpenVocabDetector` itself for every
setting; AP50 by COCO's names, by synonyms, and false labels a photo for classes that are absent.
"""

import argparse
import dataclasses
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

import names
import numpy as np
import supervision as sv
from evaluate import SYNONYMS
from supervision.metrics import MeanAveragePrecision

from openvocab import OpenVocabDetector, Preset, images
from openvocab.presets import load
from openvocab.protocols import Boxes, Encoder, Features, Image, Proposals, Proposer

logger = logging.getLogger("calibrate")

GRID = {
    "logit_scale": (10.0, 15.0, 20.0, 30.0),
    "prior_scale": (10.0, 20.0, 30.0),
    "prior_floor": (0.4, 0.5, 0.6),
    "prior_weight": (3.0, 5.0, 8.0),
    "background_weight": (1.0, 2.0, 4.0),
    "fusion_exponent": (0.2, 0.3, 0.5),
}
ABSENT = (
    "cactus", "crown", "drone", "fire extinguisher", "forklift", "harp", "helmet", "ladder",
    "lighthouse", "octopus", "penguin", "piano", "snake", "stethoscope", "submarine", "sword",
    "tent", "tractor", "wheelchair", "windmill",
)  # fmt: skip
# Points of AP50 that a false label a photo is worth, when all absent classes are asked for.
CALM = 2.0
LEAST = 0.01  # scores under this do not move AP


class Replay:
    """A proposer and an encoder that give again what they gave for each photo; words are real."""

    def __init__(self, proposer: Proposer, encoder: Encoder, photos: Sequence[Image]) -> None:
        self._encoder = encoder
        self.names = proposer.names
        self.fingerprint, self.logit_bias = encoder.fingerprint, encoder.logit_bias
        self.logit_scale, self.encode_text = encoder.logit_scale, encoder.encode_text
        found = proposer.propose(photos)
        rows = encoder.encode_regions(photos, [each.xyxy for each in found])
        self._found = {id(photo): each for photo, each in zip(photos, found, strict=True)}
        self._rows = {id(photo): each for photo, each in zip(photos, rows, strict=True)}

    def propose(self, photos: Sequence[Image]) -> list[Proposals]:
        """Boxes of photos seen before."""
        return [self._found[id(photo)] for photo in photos]

    def encode_regions(self, photos: Sequence[Image], boxes: Sequence[Boxes]) -> list[Features]:
        """Features of the first boxes of photos seen before (objectness falls along them)."""
        pairs = zip(photos, boxes, strict=True)
        return [self._rows[id(photo)][: len(each)] for photo, each in pairs]


class Photos:
    """Photos with their labelled boxes, replayed."""

    def __init__(self, folder: Path, count: int, preset: Preset) -> None:
        boxes = names.coco_boxes(folder)
        files = sorted({box.photo for box in boxes})[:count]
        self.known = names.coco(folder)
        self._images = [images.load(file) for file in files]
        self._wanted = [
            _wanted([b for b in boxes if b.photo == file], self.known) for file in files
        ]
        detector = OpenVocabDetector.from_preset(preset)
        self._replay = Replay(detector.proposer, detector.encoder, self._images)

    def ap50(self, preset: Preset, words: Sequence[str]) -> float:
        """Of words in the order of COCO's names."""
        return _ap50(self._detect(preset, words, LEAST), self._wanted)

    def own_ap50(self) -> float:
        """Of the detector's own labels."""
        own = [
            sv.Detections(
                each.xyxy, confidence=each.objectness,
                class_id=np.array([self.known.index(label) for label in each.labels], int),
            )
            for each in self._replay.propose(self._images)
        ]  # fmt: skip
        return _ap50(own, self._wanted)

    def false_labels(self, preset: Preset, words: Sequence[str]) -> float:
        """Boxes a photo for words of which nothing is there, at the preset's threshold."""
        found = self._detect(preset, words, preset.score_threshold)
        return sum(map(len, found)) / len(found)

    def f1(self, preset: Preset, words: Sequence[str]) -> dict[float, float]:
        """F1 at IoU .5 for each threshold."""
        found = self._detect(preset, words, LEAST)
        result = {}
        for threshold in np.arange(0.1, 0.75, 0.05):
            kept = [each[each.confidence >= threshold] for each in found]
            right = sum(
                _right(each, wanted) for each, wanted in zip(kept, self._wanted, strict=True)
            )
            total = sum(map(len, kept)) + sum(map(len, self._wanted))
            result[round(float(threshold), 2)] = 2 * right / total
        return result

    def _detect(
        self, preset: Preset, words: Sequence[str], threshold: float
    ) -> list[sv.Detections]:
        detector = OpenVocabDetector(self._replay, self._replay, preset)
        return detector.detect_batch(self._images, list(words), score_threshold=threshold)


def _wanted(boxes: Sequence[names.Box], known: Sequence[str]) -> sv.Detections:
    return sv.Detections(
        np.array([box.xyxy for box in boxes], np.float32),
        class_id=np.array([known.index(box.name) for box in boxes], int),
    )


def _ap50(found: list[sv.Detections], wanted: list[sv.Detections]) -> float:
    plain = [
        sv.Detections(each.xyxy, confidence=each.confidence, class_id=each.class_id)
        for each in found
    ]
    return 100 * float(MeanAveragePrecision().update(plain, wanted).compute().map50)


def _right(found: sv.Detections, wanted: sv.Detections) -> int:
    """Boxes that meet a labelled box of their class; each labelled box counts once."""
    overlap = sv.box_iou_batch(wanted.xyxy, found.xyxy) >= 0.5
    overlap &= wanted.class_id[:, None] == found.class_id[None]
    taken: set[int] = set()
    for column in overlap.T:  # best score first
        free = [row for row in np.flatnonzero(column) if row not in taken]
        taken.update(free[:1])
    return len(taken)


def main() -> None:
    """One setting at a time, twice round: each takes the value of the best AP50 that is calm."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coco", type=Path, required=True, help="folder of unseen COCO photos")
    parser.add_argument("--encoder", default="starter-encoder", help="its name or folder")
    parser.add_argument("--photos", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    preset = dataclasses.replace(load("starter"), encoder=options.encoder)
    photos = Photos(options.coco, options.photos, preset)
    lists = [photos.known, [SYNONYMS.get(name, name) for name in photos.known]]
    absent = [name.replace("_", " ") for name in sorted(names.HELD_OUT)] + list(ABSENT)
    logger.info("detector alone: AP50 %.1f", photos.own_ap50())

    def figures(candidate: Preset) -> list[float]:
        calm = -CALM * photos.false_labels(candidate, absent)
        return [*(photos.ap50(candidate, words) for words in lists), calm]

    best = figures(preset)
    for _, (key, values) in itertools.product(range(options.rounds), GRID.items()):
        for value in values:
            candidate = dataclasses.replace(preset, **{key: value})
            found = figures(candidate)
            logger.info("%s = %g: AP50 %.1f, synonyms %.1f, false labels %.1f", key, value, *found)
            if sum(found) > sum(best) + 0.1:  # ties stay
                preset, best = candidate, found
    for name, words in zip(("names", "synonyms"), lists, strict=True):
        scores = photos.f1(preset, words)
        logger.info("F1 by %s: %s", name, {key: round(value, 3) for key, value in scores.items()})
    for threshold in (0.2, 0.25, 0.3, 0.35, 0.4):
        rate = photos.false_labels(dataclasses.replace(preset, score_threshold=threshold), absent)
        logger.info(
            "threshold %.2f: %.2f false labels a photo for the absent classes", threshold, rate
        )
    logger.info("chosen: %s", {key: getattr(preset, key) for key in GRID})


if __name__ == "__main__":
    main()
