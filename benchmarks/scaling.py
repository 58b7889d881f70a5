"""How `openvocab batch` grows with cores: one core, all cores in one process, and one Ray process per core.

    .venv/bin/python benchmarks/scaling.py ../shared/data/coco-dev/images --json benchmarks/results/scaling.json

Each setup processes a small and a large folder; the difference gives the rate, the rest is the start-up time. The
setups take turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from openvocab import OpenVocabDetector
from openvocab.evaluation._provenance import provenance
from openvocab.io import _images as images

SMALL, LARGE = 128, 640  # images
ROUNDS = 3
CLASSES = "person, car, dog, chair, bottle"


def setups(cores: int) -> dict[str, tuple[int, list[str]]]:
    """Cores to use, and options of the command, by name."""
    return {
        "one core": (1, []),
        f"one process, {cores} cores": (cores, []),
        f"Ray, 1 worker of {cores} cores": (cores, ["--engine", "ray", "--workers", "1"]),
        f"Ray, {cores} workers of a core": (cores, ["--engine", "ray", "--workers", str(cores)]),
    }


def seconds(folder: Path, cores: int, options: list[str]) -> float:
    """Seconds of one run, start-up included."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "openvocab", "batch", str(folder), "--classes", CLASSES]
        start = time.perf_counter()
        subprocess.run(  # noqa: S603  our own command
            [*command, "--out", out, *options], check=True, stdout=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, range(cores)),
        )  # fmt: skip
        return time.perf_counter() - start


def repeat(paths: list[Path], folder: Path, count: int) -> Path:
    """A folder of `count` links to images, which repeat."""
    folder.mkdir()
    for index in range(count):
        path = paths[index % len(paths)]
        (folder / f"{index:04}{path.suffix}").symlink_to(path.resolve())
    return folder


def measure(paths: list[Path]) -> dict[str, Any]:
    """Measure everything."""
    cores = len(os.sched_getaffinity(0))
    rates: dict[str, list[float]] = {name: [] for name in setups(cores)}
    starts: dict[str, list[float]] = {name: [] for name in setups(cores)}
    with tempfile.TemporaryDirectory() as folder:
        small = repeat(paths, Path(folder) / "small", SMALL)
        large = repeat(paths, Path(folder) / "large", LARGE)
        for _ in range(ROUNDS):
            for name, (used, options) in setups(cores).items():
                short, long = seconds(small, used, options), seconds(large, used, options)
                rates[name].append(round((LARGE - SMALL) / (long - short), 2))
                starts[name].append(round(short - SMALL / rates[name][-1], 1))
    one = rates["one core"]
    return {
        "provenance": provenance(OpenVocabDetector.from_preset()),
        "images": len(paths),
        "images per second": rates,
        "seconds to start": starts,
        "over one core": {
            name: round(statistics.median(a / b for a, b in zip(rate, one, strict=True)), 2)
            for name, rate in rates.items()
        },
    }


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    results = measure(images.find_images([str(options.folder)])[:160])
    options.json.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps({key: value for key, value in results.items() if key != "provenance"}))  # noqa: T201


if __name__ == "__main__":
    main()
