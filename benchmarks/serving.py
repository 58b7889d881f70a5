"""A server under load from another process: latency of one and of four clients, throughput with batches and without.

    .venv/bin/python benchmarks/serving.py ../shared/data/coco-dev/images --json benchmarks/results/serving.json

Each request has one image, as base64 in JSON, and five classes. The servers (with batches, without, and Ray Serve with
one replica per core) take turns.
"""

import argparse
import base64
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from openvocab import OpenVocabDetector
from openvocab.evaluation._provenance import provenance
from openvocab.io import _images as images

CLASSES = ["person", "car", "dog", "chair", "bottle"]
ALONE, TOGETHER, MANY = 40, 120, 160  # requests
ROUNDS = 3
JSON = {"content-type": "application/json"}


def free_port() -> str:
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def serve(*options: str) -> tuple[str, list[str]]:
    """Port and command line of `openvocab serve`."""
    port = free_port()
    command = [sys.executable, "-m", "openvocab", "serve", "--no-demo", "--port", port, *options]
    return port, command


def replicas(count: int) -> tuple[str, list[str]]:
    """Port and command line of Ray Serve with `count` replicas of one core each."""
    port = free_port()
    file = str(Path(__file__).parents[1] / "examples/ray_serve.py")
    return port, [sys.executable, file, "--replicas", str(count), "--port", port]


@contextmanager
def serving(port: str, command: list[str]) -> Iterator[httpx.Client]:
    """A server in a process of its own, ready."""
    with (
        subprocess.Popen(command, stdout=subprocess.DEVNULL) as process,  # noqa: S603  our own command
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client,
    ):
        try:
            while True:
                try:
                    client.get("/readyz").raise_for_status()
                    break
                except httpx.HTTPError:
                    if process.poll() is not None:
                        raise
                    time.sleep(0.1)
            yield client
        finally:
            process.send_signal(signal.SIGTERM)


def load(client: httpx.Client, bodies: list[bytes], count: int, clients: int) -> dict[str, Any]:
    """Send `count` requests from `clients` threads."""

    def send(index: int) -> tuple[float, int]:
        start = time.perf_counter()
        response = client.post("/v1/detect", content=bodies[index % len(bodies)], headers=JSON)
        return 1000 * (time.perf_counter() - start), response.status_code

    with ThreadPoolExecutor(clients) as pool:
        start = time.perf_counter()
        responses = list(pool.map(send, range(count)))
        seconds = time.perf_counter() - start
    times = [ms for ms, status in responses if status == 200]
    return {
        "ms": [round(float(value), 1) for value in np.percentile(times, (50, 95))],
        "per_second": round(len(times) / seconds, 2),
        "statuses": dict(Counter(status for _, status in responses)),
    }


def measure(paths: list[Path]) -> dict[str, Any]:
    """Measure everything."""
    bodies = [
        json.dumps(
            {"image": base64.b64encode(path.read_bytes()).decode(), "classes": CLASSES}
        ).encode()
        for path in paths
    ]
    rates: dict[str, list[float]] = {"batches": [], "one by one": [], "one replica per core": []}
    result: dict[str, Any] = {"provenance": provenance(OpenVocabDetector.from_preset())}
    with (
        serving(*serve("--queue", "64")) as batched,
        serving(*serve("--queue", "64", "--batch", "1")) as single,
        serving(*replicas(os.cpu_count() or 1)) as spread,
    ):
        servers = dict(zip(rates, (batched, single, spread), strict=True))
        for client in servers.values():
            load(client, bodies, 20, 4)  # warms up
        for name, client in (("", batched), (", one replica per core", spread)):
            result[f"alone{name}"] = load(client, bodies, ALONE, 1)
            result[f"4 clients{name}"] = load(client, bodies, TOGETHER, 4)
        for _ in range(ROUNDS):
            for name, client in servers.items():
                rates[name].append(load(client, bodies, MANY, 16)["per_second"])
    with serving(*serve("--queue", "4")) as client:
        result["32 clients, 4 may wait"] = load(client, bodies, MANY, 32)
    one = rates["one by one"]
    return result | {
        "p95 of 4 clients over one alone": round(
            result["4 clients"]["ms"][1] / result["alone"]["ms"][1], 2
        ),
        "images per second, 16 clients": rates,
        "over one by one": {
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
    results = measure(images.find_images([str(options.folder)])[:50])
    options.json.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps({key: value for key, value in results.items() if key != "provenance"}))  # noqa: T201


if __name__ == "__main__":
    main()
