"""What `openvocab detect` reports of an image: detections, what came closest, and why."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openvocab.io._rows import detections_to_rows, near_misses_to_rows
from openvocab.types import Contribution, EncodedRegions, Image, NearMiss

if TYPE_CHECKING:
    import supervision as sv

    from openvocab.detector import OpenVocabDetector
    from openvocab.vocabulary import Vocabulary

MAX_NEAR_MISSES = 10  # of an image; further ones are farther away
_MAX_SHARES = 5  # classes in an explanation, and as many competitors
_MIN_SHARE = 0.005  # smaller ones would be printed as 0.00
_NEAR_SCORE = 0.1  # as low as `encode_image` encodes


@dataclass(frozen=True, slots=True)
class Finder:
    """Runs the networks once on an image, and reports what is in it."""

    detector: "OpenVocabDetector"
    vocabulary: "Vocabulary"
    negatives: Sequence[object]
    """The vocabulary's negatives, names and images, if they are known."""
    threshold: float | None
    explain: bool
    """Whether every row says what contributed to its class."""
    thorough: bool
    """Whether boxes below the threshold are encoded, too, so that more can come close."""

    def __call__(self, image: Image) -> "tuple[sv.Detections, dict[str, Any]]":
        """The detections in a BGR image, and rows of `detections` and `near_misses`."""
        head = self.detector.class_head(self.vocabulary, score_threshold=self.threshold)
        lowest = min(head.min_score, _NEAR_SCORE) if self.thorough else head.min_score
        regions = self.detector.encode_image(image, score_threshold=lowest)
        detections = head.classify(regions)
        near = head.near_misses(regions, detections)
        rows = list(detections_to_rows(detections))
        near_rows = near_misses_to_rows(near[:MAX_NEAR_MISSES])
        if self.explain:
            for row in (*rows, *near_rows):
                row.update(self._explanation(regions, row["region_id"]))
        return detections, {"detections": rows, "near_misses": near_rows}

    def _explanation(self, regions: EncodedRegions, region_id: int | None) -> dict[str, Any]:
        """What contributed to the class of a box, the largest shares first."""
        if region_id is None:
            return {"contributions": []}
        proposals = regions.proposals
        return {
            "objectness": round(float(proposals.objectness[region_id]), 4),
            "proposal_label": self.detector.proposer.labels[proposals.label_ids[region_id]],
            "contributions": [
                {"kind": part.kind, "name": self._name(part), "share": round(part.share, 4)}
                for part in sorted(
                    self.detector.explain(regions, region_id, self.vocabulary),
                    key=lambda part: -part.share,
                )
            ],
        }

    def _name(self, part: Contribution) -> str:
        """A vocabulary has only the features of its negatives; `explain` numbers them."""
        if part.kind != "negative" or not self.negatives:
            return part.name
        return str(self.negatives[int(part.name.rpartition(" ")[2]) - 1])


def near_miss_lines(record: dict[str, Any], *, explain: bool) -> Iterator[str]:
    """What came closest to each class without a detection, and why, line by line."""
    for row in record["near_misses"]:
        yield str(NearMiss(**{field: row[field] for field in NearMiss._fields}))
        if explain:
            yield from _explanation_lines(row)


def detection_lines(record: dict[str, Any]) -> Iterator[str]:
    """Why each box has its class, line by line."""
    for row in record["detections"]:
        box = ",".join(f"{edge:.0f}" for edge in row["xyxy"])
        yield f"{row['class_name']}: {row['confidence']:.2f} at {box}"
        yield from _explanation_lines(row)


def _explanation_lines(row: dict[str, Any]) -> Iterator[str]:
    if not row["contributions"]:
        return
    parts = row["contributions"]
    classes = [part for part in parts if part["kind"] == "class"]
    others = [part for part in parts if part["kind"] != "class" and part["share"] >= _MIN_SHARE]
    yield f"  objectness {row['objectness']:.2f}, detector label {row['proposal_label']}"
    yield f"  classes: {', '.join(map(_share, classes[:_MAX_SHARES]))}"
    best = row.get("box_class") or row["class_name"]
    yield f"  against {best}: {', '.join(map(_share, others[:_MAX_SHARES])) or 'nothing'}"


def _share(part: dict[str, Any]) -> str:
    kind = {"negative": " (negative)", "detector": " (detector label)"}.get(part["kind"], "")
    return f"{part['name']}{kind} {part['share']:.2f}"
