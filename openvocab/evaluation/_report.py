"""An evaluation as one self-contained HTML page."""

from importlib.resources import files
from typing import Any

import jinja2

from openvocab.evaluation._evaluator import Evaluation
from openvocab.evaluation._gallery import missed, mistakes
from openvocab.evaluation._plots import plots


def html(evaluation: Evaluation, results: dict[str, Any]) -> str:
    """Render the page.

    Args:
        evaluation: the evaluation to show.
        results: its metrics, with the preset and the provenance.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda v: "–" if v is None else f"{100 * v:.1f}"  # noqa: RUF001  a dash in a table
    environment.filters["number"] = lambda v: "–" if v is None else f"{v:.2f}"  # noqa: RUF001
    source = files("openvocab.evaluation").joinpath("report.html").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        results=results,
        plots=plots(evaluation),
        mistakes=list(mistakes(evaluation)),
        missed=list(missed(evaluation)),
    )
