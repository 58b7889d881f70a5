"""`openvocab serve` in a process of its own, as a user would start it."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from videos import free_port


@contextmanager
def serving(*options: str) -> Iterator[tuple[httpx.Client, subprocess.Popen]]:
    """A client and the server process, which must end with code 0."""
    port = free_port()
    command = [sys.executable, "-m", "openvocab", "serve", "--port", str(port), *options]
    with (
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    if client.get("/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    assert process.poll() is None, process.stderr.read().decode()
                    assert time.monotonic() < deadline, "the server does not start"
                    time.sleep(0.1)
            yield client, process
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, process.stderr.read().decode()
