"""Compares an exported image encoder with fp32, and refuses one that loses accuracy or no time."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvocab.encoders._image_encoder_runtime import ExportReport, Forward
from openvocab.errors import ModelError
from openvocab.types import Features

MIN_REGIONS = 200  # with fewer, a share of 98 % means little
ROUNDS = 7


@dataclass(frozen=True, slots=True)
class ExportTolerances:
    """Limits below which an exported image encoder is refused.

    The cosine is that of the worst region, not the mean: the starter in bf16 has a mean of 0.997,
    a worst region of 0.94, and gives 1 region in 10 another name.
    """

    fp32: float = 0.9999
    """Lowest cosine to the features of torch in fp32, for an export in fp32."""
    bf16: float = 0.99
    """The same for an export in bf16."""
    int8: float = 0.98
    """Share of the regions that keep their nearest word."""
    speed: float = 1.0
    """Speed relative to torch, and to ONNX Runtime in fp32, that must be exceeded."""


def check_samples(precision: str, regions: int, words: Sequence[str]) -> None:
    """Check that there are enough regions to compare on; fp32 may do with noise.

    Raises:
        ModelError: there are too few regions, or no words for int8.
    """
    if precision == "fp32" and not regions:
        return
    if regions < MIN_REGIONS or (precision == "int8" and not words):
        raise ModelError(
            f"{precision} must be compared with fp32 on {MIN_REGIONS} regions of real images or "
            f"more, and has {regions}; give a folder of more images (--images)."
        )


def compare(
    exported: Forward,
    torch_fp32: Forward,
    onnx_fp32: Forward,
    batches: Sequence[NDArray[np.uint8]],
    words: Features | None,
) -> dict[str, Any]:
    """Measure features against torch in fp32, and speed against torch and ONNX Runtime in fp32.

    Args:
        exported: what is measured; may be the same object as `onnx_fp32`.
        torch_fp32: the reference.
        onnx_fp32: the export that every other one must beat.
        batches: regions `(N, S, S, 3)`; the speed is that of the first batch.
        words: features `(K, D)` to name regions with; None measures no agreement.

    Returns:
        The fields of `ExportReport` that are measured.
    """
    expected = np.vstack([torch_fp32(batch) for batch in batches])
    features = np.vstack([exported(batch) for batch in batches])
    cosines = (expected * features).sum(axis=1) / np.linalg.norm(features, axis=1)
    agreement = None
    if words is not None:
        same = (expected @ words.T).argmax(axis=1) == (features @ words.T).argmax(axis=1)
        agreement = round(float(same.mean()), 4)
    ratios = []
    for _ in range(ROUNDS + 1):
        seconds = [_seconds(forward, batches[0]) for forward in (torch_fp32, onnx_fp32, exported)]
        ratios.append([seconds[0] / seconds[2], seconds[1] / seconds[2]])
    over_torch, over_onnx = np.median(ratios[1:], axis=0)  # the first round warms up
    return {
        "cosine_min": round(float(cosines.min()), 6),
        "cosine_mean": round(float(cosines.mean()), 6),
        "agreement": agreement,
        "over_torch": round(float(over_torch), 2),
        "speed": 1.0 if exported is onnx_fp32 else round(float(over_onnx), 2),
    }


def _seconds(forward: Forward, batch: NDArray[np.uint8]) -> float:
    start = time.perf_counter()
    forward(batch)
    return time.perf_counter() - start


def check_parity(report: ExportReport, tolerances: ExportTolerances) -> None:
    """Check accuracy and speed of an export.

    Raises:
        ModelError: it is less accurate than tolerated, or no faster.
    """
    name = f"{report.runtime} {report.precision}"
    if report.precision == "int8":
        agreement = report.agreement or 0
        accurate = agreement >= tolerances.int8
        loss = (
            f"keeps the nearest word of {agreement:.1%} of {report.regions} regions, "
            f"under {tolerances.int8:.0%}"
        )
    else:
        limit = tolerances.bf16 if report.precision == "bf16" else tolerances.fp32
        accurate = report.cosine_min >= limit  # false for NaN, too
        loss = f"has a cosine of {report.cosine_min:.4f} to fp32 on its worst region, under {limit}"
    if not accurate:
        raise ModelError(f"Refused: {name} {loss}; nothing was written, use another precision.")
    speeds = {"torch in fp32": report.over_torch}
    if name != "onnx fp32":
        speeds["ONNX Runtime in fp32"] = report.speed
    for baseline, speed in speeds.items():
        if speed <= tolerances.speed:
            raise ModelError(
                f"Refused: {name} is {speed:.2f} times as fast here as {baseline}, no gain; "
                "nothing was written, use another runtime or precision."
            )
