"""An evaluation's figures as plots, each a string with SVG."""

import io
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from openvocab.evaluation import metrics
from openvocab.evaluation.evaluator import THRESHOLDS, Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MANY = 100  # classes; with more, nobody can read a confusion matrix
BLUE, ORANGE, GREY = "#2563eb", "#ea580c", "#9ca3af"


def plots(evaluation: Evaluation) -> dict[str, str]:
    """Make all plots: title and SVG of each."""
    drawn = {
        "AP50 by wording": svg(lambda axes: _wordings(axes, evaluation)),
        "How often a score is right": svg(lambda axes: _reliability(axes, evaluation)),
        "F1 by threshold": svg(lambda axes: _f1(axes, evaluation)),
        "Recall of the proposals": svg(lambda axes: _recall(axes, evaluation)),
    }
    if len(evaluation.dataset.classes) <= MANY:
        title = "What labelled boxes were called"
        drawn[title] = svg(lambda axes: _confusion(axes, evaluation), side=11)
    return drawn


def svg(draw: Callable[..., Any], side: float = 4.5, columns: int = 1) -> str:
    """Draw with `draw` on `columns` axes side by side, as SVG."""
    # Equal figures give equal SVG; text stays text.
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
        for each in axes:
            each.spines[["top", "right"]].set_visible(False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _wordings(axes: "Axes", evaluation: Evaluation) -> None:
    names = [each.variant.name for each in evaluation.asked]
    values = [100 * each.precision.ap50 for each in evaluation.asked]
    bars = axes.barh(names, values, color=BLUE)
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.invert_yaxis()
    axes.set_xlabel("AP50, %")
    if evaluation.own is not None:
        axes.axvline(100 * evaluation.own.ap50, color=ORANGE, label="the detector's own labels")
        axes.legend(loc="lower left")


def _reliability(axes: "Axes", evaluation: Evaluation) -> None:
    scores, right = evaluation.asked[0].matches.judged()
    rows = metrics.reliability(scores, right)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", label="as it should be")
    axes.plot(rows[:, 0], rows[:, 1], marker="o", color=BLUE, label="boxes of that score")
    share = rows[:, 2] / max(rows[:, 2].sum(), 1)
    axes.bar(rows[:, 0], share, 0.06, color=GREY, alpha=0.5, label="share")
    axes.axvline(evaluation.threshold, color=ORANGE, label="threshold")
    axes.set(xlabel="score", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper left")


def _f1(axes: "Axes", evaluation: Evaluation) -> None:
    for each in evaluation.asked:
        axes.plot(THRESHOLDS, each.f1, label=each.variant.name)
    axes.axvline(evaluation.threshold, color=ORANGE, linestyle="--", label="threshold")
    axes.set(xlabel="threshold", ylabel="F1", xlim=(0, 1), ylim=(0, 1))
    axes.legend()


def _recall(axes: "Axes", evaluation: Evaluation) -> None:
    counts, values = list(evaluation.recall), [100 * v for v in evaluation.recall.values()]
    axes.plot(range(len(counts)), values, marker="o", color=BLUE)
    for place, value in enumerate(values):
        axes.annotate(f"{value:.1f}", (place, value), (0, 6), textcoords="offset points")
    axes.set_xticks(range(len(counts)), [str(count) for count in counts])
    axes.set(xlabel="best proposals a photo", ylabel="labelled boxes met, %", ylim=(0, 100))


def _confusion(axes: "Axes", evaluation: Evaluation) -> None:
    """Draw the matrix; rows are shares of a class's labelled boxes, empty ones are left out."""
    names: Sequence[str] = [*evaluation.dataset.classes, "(nothing)"]
    table = evaluation.confusion.astype(float)
    there = np.flatnonzero(table[:-1].sum(axis=1))
    columns = np.append(there, len(table) - 1)
    rows = table[there][:, columns] / table[there].sum(axis=1, keepdims=True)
    picture = axes.imshow(rows, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(
        range(len(columns)), [names[column] for column in columns.tolist()], rotation=90
    )
    axes.set_yticks(range(len(there)), [names[row] for row in there.tolist()])
    axes.tick_params(labelsize=6)
    axes.set(xlabel="found", ylabel="labelled")
    axes.figure.colorbar(picture, ax=axes, shrink=0.5, label="share of the labelled boxes")
