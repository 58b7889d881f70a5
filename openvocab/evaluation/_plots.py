"""Plots of an evaluation, as SVG."""

import io
import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from openvocab.evaluation import _metrics as metrics
from openvocab.evaluation._evaluator import Evaluation
from openvocab.evaluation._metrics import THRESHOLDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREY = "#2563eb", "#ea580c", "#9ca3af"
_MAX_CONFUSION_CLASSES = 100  # a larger matrix cannot be read


def plots(evaluation: Evaluation) -> dict[str, str]:
    """Make all plots: title and SVG of each."""
    drawings: dict[str, Callable[..., None]] = {
        "AP50 by prompt variant": _variants,
        "Reliability": _reliability,
        "Reliability by relation to the labels": _reliability_by_relation,
        "F1 by threshold": _f1,
        "Recall of the proposals": _recall,
    }
    result = {title: svg(partial(draw, evaluation)) for title, draw in drawings.items()}
    if len(evaluation.dataset.classes) <= _MAX_CONFUSION_CLASSES:
        result["Confusion matrix"] = svg(partial(_confusion, evaluation), side=11)
    return result


def svg(draw: Callable[..., Any], side: float = 4.5, columns: int = 1) -> str:
    """Draw with `draw` on `columns` axes side by side, as SVG."""
    # The same data gives the same SVG; text stays text.
    with (
        rc_context(
            {
                "svg.hashsalt": "openvocab",
                "svg.fonttype": "none",
                "font.size": 9,
                "text.parse_math": False,  # class names are not formulas
            }
        ),
        warnings.catch_warnings(),
    ):
        # The browser's fonts draw the text, not the fonts here, which may lack a character.
        warnings.filterwarnings("ignore", message="Glyph")
        figure = Figure(figsize=(side * 1.25 * columns, side), layout="constrained")
        axes = figure.subplots(1, columns, squeeze=False)[0]
        draw(*axes)
        for subplot in axes:
            subplot.spines[["top", "right"]].set_visible(False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _variants(evaluation: Evaluation, axes: "Axes") -> None:
    names = [result.variant.name for result in evaluation.variants]
    values = [100 * result.precision.metrics["AP50"] for result in evaluation.variants]
    bars = axes.barh(names, values, color=BLUE)
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.invert_yaxis()
    axes.set_xlabel("AP50, %")
    if evaluation.detector_alone is not None:
        ap50 = 100 * evaluation.detector_alone.metrics["AP50"]
        axes.axvline(ap50, color=ORANGE, label="the detector's own labels")
        axes.legend(loc="lower left")


def _reliability(evaluation: Evaluation, axes: "Axes") -> None:
    rows = metrics.reliability(*evaluation.variants[0].matches.counted())
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", label="perfect calibration")
    axes.plot(rows[:, 0], rows[:, 1], marker="o", color=BLUE, label="precision")
    share = rows[:, 2] / max(rows[:, 2].sum(), 1)
    axes.bar(rows[:, 0], share, 0.06, color=GREY, alpha=0.5, label="share of the boxes")
    axes.axvline(evaluation.threshold, color=ORANGE, label="threshold")
    axes.set(xlabel="score", ylabel="precision", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper left")


def _reliability_by_relation(evaluation: Evaluation, axes: "Axes") -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--")
    for result in evaluation.relations:
        rows = metrics.reliability(*result.matches.counted())
        axes.plot(rows[:, 0], rows[:, 1], marker=".", label=result.name)
    axes.axvline(evaluation.threshold, color=ORANGE, linestyle="--", label="threshold")
    axes.set(xlabel="score", ylabel="precision", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper left")


def _f1(evaluation: Evaluation, axes: "Axes") -> None:
    for result in evaluation.variants:
        axes.plot(THRESHOLDS, result.f1, label=result.variant.name)
    axes.axvline(evaluation.threshold, color=ORANGE, linestyle="--", label="threshold")
    axes.set(xlabel="threshold", ylabel="F1", xlim=(0, 1), ylim=(0, 1))
    axes.legend()


def _recall(evaluation: Evaluation, axes: "Axes") -> None:
    counts, values = list(evaluation.recall), [100 * v for v in evaluation.recall.values()]
    axes.plot(range(len(counts)), values, marker="o", color=BLUE)
    for index, value in enumerate(values):
        axes.annotate(f"{value:.1f}", (index, value), (0, 6), textcoords="offset points")
    axes.set_xticks(range(len(counts)), [str(count) for count in counts])
    axes.set(xlabel="best proposals per image", ylabel="recall, %", ylim=(0, 100))


def _confusion(evaluation: Evaluation, axes: "Axes") -> None:
    """Draw the matrix; rows are shares of a class's labelled boxes, empty ones are left out."""
    names = [*evaluation.variants[0].variant.classes, "(none)"]
    table = evaluation.confusion.astype(float)
    rows = np.flatnonzero(table[:-1].sum(axis=1))
    columns = np.append(rows, len(table) - 1)
    shares = table[rows][:, columns] / table[rows].sum(axis=1, keepdims=True)
    matrix = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    labels = [names[column] for column in columns.tolist()]
    axes.set_xticks(range(len(columns)), labels, rotation=90)
    axes.set_yticks(range(len(rows)), labels[:-1])
    axes.tick_params(labelsize=6)
    axes.set(xlabel="detected", ylabel="labelled")
    axes.figure.colorbar(matrix, ax=axes, shrink=0.5, label="share of the labelled boxes")
