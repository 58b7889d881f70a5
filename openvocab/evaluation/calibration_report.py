"""A calibration as readable lines, and as the file of a preset."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from openvocab import __version__, weights
from openvocab.config import Preset
from openvocab.errors import one_line
from openvocab.evaluation.calibration import Calibration, Fit
from openvocab.evaluation.datasets import Dataset


def report(fitted: Calibration) -> list[str]:
    """Describe what was fitted, in readable lines."""
    lines = [f"{key}: {fitted.start[key]:g} -> {value:g}" for key, value in fitted.changed.items()]
    if not fitted.better:
        lines.append("Fitted numbers do no better on photos left out: only the threshold is set.")
    rows = {
        "before": fitted.before,
        "fitted": fitted.after,
        "on photos left out, before": fitted.unseen_before,
        "on photos left out, fitted": fitted.unseen,
    }
    return lines + [f"{name}: {_line(each)}" for name, each in rows.items()]


def _line(each: Fit) -> str:
    ap50 = ", ".join(f"{variant} {100 * value:.1f}" for variant, value in each.ap50.items())
    line = f"AP50 {ap50}; F1 {100 * each.f1:.1f} at {each.threshold:.2f}; ECE {each.ece:.3f}"
    if np.isnan(each.false_labels):
        return line
    return f"{line}; {each.false_labels:.3f} false labels a photo for five absent classes"


def toml(preset: Preset, fitted: Calibration, dataset: Dataset, part: str) -> str:
    """Write the preset with its new numbers, and the measurements behind them as comments."""
    chosen = [
        f"openvocab {__version__} fitted {', '.join(fitted.numbers)}",
        f"to {len(dataset)} photos of {dataset.name} (part: {part}; SHA-256 {dataset.sha256[:16]}).",
        *report(fitted),
    ]
    comments = "".join(f"# {one_line(line)}\n" for line in chosen)
    # A path is relative to the file it is in, and this is another file.
    paths = {key: getattr(preset.models, key) for key in ("detector", "encoder")}
    moved: dict[str, Any] = {
        key: str(Path(path).resolve())
        for key, path in paths.items()
        if path not in weights.manifest() and Path(path).exists()
    }
    changed: dict[str, Any] = dict(fitted.changed)
    calibrated = replace(
        preset,
        models=replace(preset.models, **moved),
        scoring=replace(preset.scoring, **changed),
    )
    return comments + calibrated.to_toml()
