"""Weights by name: where they are on this machine, and how they are pulled."""

from openvocab.weights._download import Progress
from openvocab.weights._manifest import (
    Weights,
    WeightsFile,
    bundled_root,
    manifest,
    pull,
    resolve,
    user_root,
    verify,
)

__all__ = [
    "Progress", "Weights", "WeightsFile", "bundled_root", "manifest", "pull", "resolve",
    "user_root", "verify",
]  # fmt: skip
