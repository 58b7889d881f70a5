"""How `openvocab batch` grows with cores: one core, all of them in one process, and a process of Ray a core.

    .venv/bin/python benchmarks/scaling.py ../shared/data/coco-dev/images --json benchmarks/results/scaling.json

Each way does a small and a large folder; the difference gives the rate, the rest is its start. The ways take turns.
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
from openvocab.evaluation.provenance import provenance
from openvocab.io import images

SMALL, LARGE = 128, 640  # photos
ROUNDS = 3
CLASSES = "person, car, dog, chair, bottle"


def ways(cores: int) -> dict[str, tuple[int, list[str]]]:
    """Cores to use, and options."""
    return {
        "one core": (1, []),
        f"one process, {cores} cores": (cores, []),
        f"Ray, 1 worker of {cores} cores": (cores, ["--engine", "ray", "--workers", "1"]),
        f"Ray, {cores} workers of a core": (cores, ["--engine", "ray", "--workers", str(cores)]),
    }


def seconds(folder: Path, cores: int, options: list[str]) -> float:
    """Of one run from nothing."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "openvocab", "batch", str(folder), "--classes", CLASSES]
        begun = time.perf_counter()
        subprocess.run(  # noqa: S603  own words
            [*command, "--out", out, *options], check=True, stdout=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, range(cores)),
        )  # fmt: skip
        return time.perf_counter() - begun


def copies(photos: list[Path], folder: Path, count: int) -> Path:
    """A folder of so many photos, each as often as it must be."""
    folder.mkdir()
    for number in range(count):
        photo = photos[number % len(photos)]
        (folder / f"{number:04}{photo.suffix}").symlink_to(photo.resolve())
    return folder


def measure(photos: list[Path]) -> dict[str, Any]:
    """All figures."""
    cores = len(os.sched_getaffinity(0))
    rates: dict[str, list[float]] = {name: [] for name in ways(cores)}
    starts: dict[str, list[float]] = {name: [] for name in ways(cores)}
    with tempfile.TemporaryDirectory() as place:
        small = copies(photos, Path(place) / "small", SMALL)
        large = copies(photos, Path(place) / "large", LARGE)
        for _ in range(ROUNDS):
            for name, (used, options) in ways(cores).items():
                short, long = seconds(small, used, options), seconds(large, used, options)
                rates[name].append(round((LARGE - SMALL) / (long - short), 2))
                starts[name].append(round(short - SMALL / rates[name][-1], 1))
    one = rates["one core"]
    return {
        "provenance": provenance(OpenVocabDetector.from_preset()),
        "photos": len(photos),
        "photos a second": rates,
        "seconds to start": starts,
        "over one core": {
            name: round(statistics.median(a / b for a, b in zip(rate, one, strict=True)), 2)
            for name, rate in rates.items()
        },
    }


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    found = measure(images.find_images([str(options.photos)])[:160])
    options.json.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({key: value for key, value in found.items() if key != "provenance"}))  # noqa: T201


if __name__ == "__main__":
    main()
