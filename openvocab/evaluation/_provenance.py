"""Provenance of a result: commit, versions, hashes of weights, machine."""

import hashlib
import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from openvocab import __version__
from openvocab._internal.files import sha256
from openvocab.config import Preset
from openvocab.detector import OpenVocabDetector
from openvocab.errors import WeightsNotFoundError
from openvocab.weights import resolve

_LIBRARIES = (
    "ultralytics", "open_clip_torch", "torch", "onnxruntime", "supervision",
    "faster-coco-eval", "opencv-python", "numpy",
)  # fmt: skip


def provenance(detector: OpenVocabDetector) -> dict[str, object]:
    """Commit, versions, weights and machine as a table for JSON."""
    versions = {"openvocab": __version__, "python": platform.python_version()}
    for library in _LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[library] = version(library)
    return {
        "commit": _commit(),
        "versions": versions,
        "weights": {
            "detector": detector_hash(detector.preset),
            "encoder": detector.encoder.fingerprint.split("/")[0],
        },
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


def detector_hash(preset: Preset) -> str | None:
    """SHA-256 of the detector's file, or of the files in its folder; None if there is neither."""
    try:
        path = resolve(preset.models.detector)
    except WeightsNotFoundError:  # the detector was composed by hand
        return None
    if path.is_file():
        return sha256(path)
    digest = hashlib.sha256()
    for file in sorted(filter(Path.is_file, path.rglob("*"))):
        digest.update(bytes.fromhex(sha256(file)))
    return digest.hexdigest()


def _commit() -> str | None:
    """Commit of the checkout, with `-dirty` if it has changes; None for an installed package."""
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    with suppress(OSError, subprocess.SubprocessError):
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603  a fixed command
        return result.stdout.strip()
    return None
