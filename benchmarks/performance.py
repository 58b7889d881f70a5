"""Writes docs/performance.md and its charts from what latency.py and dense.py measured.

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
    """The figures as Markdown."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)  # noqa: S701  Markdown
    environment.filters |= {
        "percent": lambda share: f"{100 * share:.1f}",
        "ms": lambda value: f"{value:.2f}" if value < 10 else f"{value:,.0f}",
        "each": lambda value, count: f"{value / int(count):.1f}",
        "times_of": lambda others, name: f"{others[name]['ratio']:.1f}x" if others else "",
    }
    template = environment.from_string(Path(__file__).with_name("latency.md.j2").read_text())
    pairs = [_pair(results[key], title) for key, title in TITLES.items()]
    versions = results["provenance"]["versions"].items()
    return template.render(
        results=results,
        pairs=pairs,
        boxes=list(pairs[0]["boxes"]),
        classes=sorted(pairs[0]["classes"]["known"], key=int),
        stages=list(pairs[0]["stages"]),
        batches=list(pairs[0]["tower"]),
        exports={TITLES[key]: rows for key, rows in results["exports"].items()},
        memory=results["MiB of 300 boxes in 12 megapixels"],
        dense=dense,
        versions=", ".join(f"{name} {version}" for name, version in versions),
    )


def _pair(measured: dict[str, Any], title: str) -> dict[str, Any]:
    known = measured["classes"]["list instead of a Vocabulary"]
    costs = known["list"]["ms"][1] - known["Vocabulary"]["ms"][1]
    return measured | {
        "title": title,
        "eight": measured["batch of 8, 10 boxes each"],
        "stages": measured["stages of 30 boxes"],
        "list_costs": f"{max(costs, 0):.2f}",
    }


def by_boxes(results: dict[str, Any]) -> str:
    """Time against boxes, both pairs side by side, as SVG."""

    def draw(axes: "Axes", measured: dict[str, Any]) -> None:
        for way, colour in COLOURS.items():
            rows = {
                int(count): row.get(way) or row.get("others", {}).get(way)
                for count, row in measured["boxes"].items()
            }
            points = [(count, row["ms"][1]) for count, row in rows.items() if row]
            axes.plot(*zip(*points, strict=True), marker="o", color=colour, label=way)
        axes.set(xscale="log", yscale="log", xlabel="boxes", ylabel="milliseconds a photo")
        _plain(axes, [int(count) for count in measured["boxes"]])
        axes.legend()

    return _both(results, draw)


def by_classes(results: dict[str, Any]) -> str:
    """Time against classes, likewise."""

    def draw(axes: "Axes", measured: dict[str, Any]) -> None:
        known = measured["classes"]["known"]
        counts = [int(count) for count in known]
        order = sorted(range(len(counts)), key=counts.__getitem__)
        low, middle, high = (
            [row["ms"][quartile] for row in known.values()] for quartile in range(3)
        )
        x = [counts[place] for place in order]
        axes.fill_between(
            x, [low[place] for place in order], [high[place] for place in order],
            color=BLUE, alpha=0.2, label="quartiles",
        )  # fmt: skip
        axes.plot(x, [middle[place] for place in order], marker="o", color=BLUE, label="detect")
        axes.set(xscale="log", xlabel="classes", ylabel="milliseconds a photo of 30 boxes")
        _plain(axes, x[:-1])  # the last two would lie on each other
        axes.set_ylim(0, 1.1 * max(high))
        axes.legend(loc="lower left")

    return _both(results, draw)


def _plain(axes: "Axes", places: list[int]) -> None:
    """Numbers on a logarithmic axis as they are spoken."""
    axes.set_xticks(places, [f"{place:,}" for place in places])
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.minorticks_off()


def _both(results: dict[str, Any], draw: Any) -> str:  # noqa: ANN401
    def side_by_side(first: "Axes", second: "Axes") -> None:
        for axes, (key, title) in zip((first, second), TITLES.items(), strict=True):
            draw(axes, results[key])
            axes.set_title(title)

    return svg(side_by_side, columns=2)


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
