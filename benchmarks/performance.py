"""Writes docs/performance.md and its charts from the results of latency.py and dense.py.

.venv/bin/python benchmarks/performance.py benchmarks/results docs
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from openvocab.evaluation._plots import BLUE, GREY, ORANGE, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {"starter": "starter", "random": "ViT-B-32"}
GREEN = "#16a34a"
COLOURS = {"floor": GREY, "detect": BLUE, "crop by crop": ORANGE, "label by label": GREEN}


def page(results: dict[str, Any], dense: dict[str, Any]) -> str:
    """The results as Markdown."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)  # noqa: S701  Markdown
    environment.filters |= {
        "percent": lambda share: f"{100 * share:.1f}",
        "ms": lambda value: f"{value:.2f}" if value < 10 else f"{value:,.0f}",
        "per": lambda value, count: f"{value / int(count):.1f}",
        "times_of": lambda others, name: f"{others[name]['ratio']:.1f}x" if others else "",
    }
    template = environment.from_string(Path(__file__).with_name("latency.md.j2").read_text())
    pairs = [_pair(results[key], title) for key, title in TITLES.items()]
    versions = results["provenance"]["versions"].items()
    return template.render(
        results=results,
        pairs=pairs,
        boxes=list(pairs[0]["boxes"]),
        classes=sorted(pairs[0]["classes"]["cached"], key=int),
        stages=list(pairs[0]["stages"]),
        batches=list(pairs[0]["image encoder"]),
        exports={TITLES[key]: rows for key, rows in results["exports"].items()},
        memory=results["MiB of 300 boxes in 12 megapixels"],
        dense=dense,
        versions=", ".join(f"{name} {version}" for name, version in versions),
    )


def _pair(measured: dict[str, Any], title: str) -> dict[str, Any]:
    times = measured["classes"]["list instead of a Vocabulary"]
    costs = times["list"]["ms"][1] - times["Vocabulary"]["ms"][1]
    return measured | {
        "title": title,
        "eight": measured["batch of 8, 10 boxes each"],
        "stages": measured["stages of 30 boxes"],
        "encoder": measured["image encoder"],
        "list_costs": f"{max(costs, 0):.2f}",
    }


def by_boxes(results: dict[str, Any]) -> str:
    """Time by number of boxes, both pairs side by side, as SVG."""

    def draw(axes: "Axes", measured: dict[str, Any]) -> None:
        for name, colour in COLOURS.items():
            rows = {
                int(count): row.get(name) or row.get("others", {}).get(name)
                for count, row in measured["boxes"].items()
            }
            points = [(count, row["ms"][1]) for count, row in rows.items() if row]
            axes.plot(*zip(*points, strict=True), marker="o", color=colour, label=name)
        axes.set(xscale="log", yscale="log", xlabel="boxes", ylabel="milliseconds per image")
        _plain_ticks(axes, [int(count) for count in measured["boxes"]])
        axes.legend()

    return _side_by_side(results, draw)


def by_classes(results: dict[str, Any]) -> str:
    """Time by number of classes, likewise."""

    def draw(axes: "Axes", measured: dict[str, Any]) -> None:
        cached = measured["classes"]["cached"]
        counts = [int(count) for count in cached]
        order = sorted(range(len(counts)), key=counts.__getitem__)
        low, middle, high = (
            [row["ms"][quartile] for row in cached.values()] for quartile in range(3)
        )
        x = [counts[index] for index in order]
        axes.fill_between(
            x, [low[index] for index in order], [high[index] for index in order],
            color=BLUE, alpha=0.2, label="quartiles",
        )  # fmt: skip
        axes.plot(x, [middle[index] for index in order], marker="o", color=BLUE, label="detect")
        axes.set(xscale="log", xlabel="classes", ylabel="milliseconds per image of 30 boxes")
        _plain_ticks(axes, x[:-1])  # the last two would overlap
        axes.set_ylim(0, 1.1 * max(high))
        axes.legend(loc="lower left")

    return _side_by_side(results, draw)


def _plain_ticks(axes: "Axes", ticks: list[int]) -> None:
    """Plain numbers on a logarithmic axis."""
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.minorticks_off()


def _side_by_side(results: dict[str, Any], draw: Any) -> str:  # noqa: ANN401
    def draw_both(first: "Axes", second: "Axes") -> None:
        for axes, (key, title) in zip((first, second), TITLES.items(), strict=True):
            draw(axes, results[key])
            axes.set_title(title)

    return svg(draw_both, columns=2)


def main() -> None:
    """Write the page and the charts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="folder of latency.json and dense.json")
    parser.add_argument("docs", type=Path)
    options = parser.parse_args()
    results, dense = (
        json.loads((options.results / f"{name}.json").read_text()) for name in ("latency", "dense")
    )
    (options.docs / "performance.md").write_text(page(results, dense))
    (options.docs / "images/performance-boxes.svg").write_text(by_boxes(results))
    (options.docs / "images/performance-classes.svg").write_text(by_classes(results))


if __name__ == "__main__":
    main()
