"""Eight visitors at once for a minute: no error, no mixed-up results, no growing memory."""

import threading
import time

import psutil
import pytest

pytest.importorskip("gradio_client", reason="the demo needs gradio")
pytest.importorskip("playwright", reason="tests/browsers.py imports it")

from browsers import demo
from gradio_client import Client, handle_file

pytestmark = pytest.mark.slow
CASES = {"bus.jpg": ("bus, pedestrian", {"bus", "pedestrian"}), "zidane.jpg": ("man", {"man"})}


def test_eight_visitors_for_a_minute(assets, tmp_path):
    errors, results = [], []
    with demo(tmp_path) as address:
        server = next(
            process
            for process in psutil.Process().children()
            if "demo" in " ".join(process.cmdline())
        )
        deadline = time.monotonic() + 60

        def visit(image: str) -> None:
            try:
                client = Client(address, verbose=False)
                classes, expected = CASES[image]
                while time.monotonic() < deadline:
                    result = client.predict(
                        handle_file(str(assets / image)), classes, "", 0.3, api_name="/detect"
                    )
                    names = {row["class_name"] for row in result["detections"]}
                    results.append((names == expected, server.memory_info().rss / 2**20))
            except Exception as error:  # noqa: BLE001  asserted below
                errors.append(repr(error))

        images = [*CASES] * 4
        threads = [threading.Thread(target=visit, args=(image,)) for image in images]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors
    assert len(results) > 50
    assert all(correct for correct, _ in results)
    memory = [used for _, used in results]
    half = len(memory) // 2
    assert max(memory[half:]) - max(memory[:half]) < 100
    print(f"{len(results)} results, memory {memory[0]:.0f} to {memory[-1]:.0f} MiB")  # noqa: T201
