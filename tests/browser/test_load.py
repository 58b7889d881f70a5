"""Eight visitors at once for a minute: no error, nothing mixed up, no memory that grows."""

import threading
import time

import psutil
import pytest

pytest.importorskip("gradio_client", reason="the demo needs gradio")
pytest.importorskip("playwright", reason="its helpers stand beside the browser's")

from browsers import demo
from gradio_client import Client, handle_file

pytestmark = pytest.mark.slow
ASKED = {"bus.jpg": ("bus, pedestrian", {"bus", "pedestrian"}), "zidane.jpg": ("man", {"man"})}


def test_eight_visitors_for_a_minute(assets, tmp_path):
    errors, answers = [], []
    with demo(tmp_path) as address:
        server = next(
            each for each in psutil.Process().children() if "demo" in " ".join(each.cmdline())
        )
        until = time.monotonic() + 60

        def visit(photo: str) -> None:
            try:
                client = Client(address, verbose=False)
                words, expected = ASKED[photo]
                while time.monotonic() < until:
                    found = client.predict(
                        handle_file(str(assets / photo)), words, "", 0.3, api_name="/detect"
                    )
                    names = {row["class_name"] for row in found}
                    answers.append((names == expected, server.memory_info().rss / 2**20))
            except Exception as error:  # noqa: BLE001  whatever it is, the test tells it
                errors.append(repr(error))

        photos = [*ASKED] * 4
        threads = [threading.Thread(target=visit, args=(photo,)) for photo in photos]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors
    assert len(answers) > 50
    assert all(right for right, _ in answers)
    memory = [used for _, used in answers]
    half = len(memory) // 2
    assert max(memory[half:]) - max(memory[:half]) < 100
    print(f"{len(answers)} answers, memory {memory[0]:.0f} to {memory[-1]:.0f} MiB")  # noqa: T201
