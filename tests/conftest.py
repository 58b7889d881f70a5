"""Fixtures for photos and checkpoints; no network, no GPU, no settings of the user."""

import importlib.util
import os
import socket
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"
LOOPBACK = {"127.0.0.1", "::1", "localhost"}

# Subprocesses inherit these. Results on a GPU differ from the expected ones in the last digits.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# Settings of the user that change what the tests do or print.
for name in ("OPENVOCAB_WEIGHTS", "YOLO_CONFIG_DIR", "COLUMNS", "FORCE_COLOR", "NO_COLOR"):
    os.environ.pop(name, None)

# How long an example takes says how busy the machine is.
settings.register_profile("openvocab", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("openvocab")


@pytest.fixture(autouse=True)
def closed_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every connection of this process to other hosts than loopback fail."""
    connect, lookup = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple) and address[0] not in LOOPBACK:
            raise AssertionError(f"a test tried to connect to {address}")
        connect(self, address)

    def guarded_lookup(host: object, *rest: object, **more: object) -> object:
        if host not in LOOPBACK:
            raise AssertionError(f"a test tried to look up {host}")
        return lookup(host, *rest, **more)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_lookup)


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of the two photos in the Ultralytics wheel, found without importing it."""
    spec = importlib.util.find_spec("ultralytics")
    if spec is None or spec.origin is None:
        pytest.fail("ultralytics is not installed")
    return Path(spec.origin).parent / "assets"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Creates an Ultralytics `.pt` from a model configuration, with random weights."""

    @cache
    def make(config: str) -> Path:
        import torch

        from openvocab._internal.runtimes import isolated_ultralytics

        path = tmp_path_factory.mktemp("checkpoint") / config.replace(".yaml", ".pt")
        with torch.random.fork_rng(), isolated_ultralytics() as ultralytics:
            torch.manual_seed(0)
            ultralytics.YOLO(config).save(path)
        return path

    return make


@pytest.fixture(scope="session")
def shared() -> Path:
    """The development data beside the project."""
    if not SHARED.is_dir():
        pytest.skip("needs the development data in ../shared/data")
    return SHARED
