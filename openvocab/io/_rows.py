"""Detections as plain numbers and strings: one row per box, or in the form of Hugging Face."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import supervision as sv

from openvocab.types import NearMiss


def detections_to_rows(detections: sv.Detections) -> Iterator[dict[str, Any]]:
    """Each box in plain numbers and strings: class, score, `xyxy`, track, all parts of the score.

    Scores are rounded to four digits, pixels to two.

    >>> list(detections_to_rows(sv.Detections.empty()))
    []
    """
    for xyxy, _, score, class_id, tracker_id, data in detections:
        row = {
            "class_name": data.get("class_name", class_id),
            "class_id": class_id,
            "confidence": score,
            "xyxy": [round(edge, 2) for edge in xyxy.astype(float).tolist()],
        }
        if tracker_id is not None:
            row["tracker_id"] = tracker_id
        row |= {key: value for key, value in data.items() if key != "class_name"}
        yield {key: _plain(value) for key, value in row.items()}


def near_misses_to_rows(near_misses: Sequence[NearMiss]) -> list[dict[str, Any]]:
    """Near misses in plain numbers and strings, rounded as in `detections_to_rows`.

    >>> near_misses_to_rows([NearMiss("telly", 0.20004, 0.3)])[0]["score"]
    0.2
    """
    return [
        {key: _plain(value) for key, value in near_miss._asdict().items()}
        | {"xyxy": near_miss.xyxy and [round(edge, 2) for edge in near_miss.xyxy]}
        for near_miss in near_misses
    ]


def to_hf(detections: sv.Detections) -> list[dict[str, Any]]:
    """Convert to what the zero-shot-object-detection pipeline of transformers returns.

    >>> to_hf(sv.Detections.empty())
    []
    """
    edges = ("xmin", "ymin", "xmax", "ymax")
    return [
        {
            "score": float(score or 0),
            "label": str(data.get("class_name", class_id)),
            "box": dict(zip(edges, map(round, xyxy.astype(float).tolist()), strict=True)),
        }
        for xyxy, _, score, class_id, _, data in detections
    ]


def _plain(value: Any) -> Any:  # noqa: ANN401  a value of a row
    value = value.item() if isinstance(value, np.generic) else value
    return round(value, 4) if isinstance(value, float) else value
