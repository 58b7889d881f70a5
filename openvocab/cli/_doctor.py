"""`openvocab doctor`: what is installed on this machine and what is missing, with remedies."""

import os
import platform
from importlib import metadata
from importlib.util import find_spec
from typing import NamedTuple

import typer
from rich.table import Table

from openvocab import config, weights
from openvocab.cli._console import out
from openvocab.errors import OpenVocabError, WeightsNotFoundError

# Of alternative distributions, one is enough.
PACKAGES = (
    "openvocab", "torch", "torchvision", "ultralytics", "open_clip_torch", "supervision",
    "onnxruntime or onnxruntime-gpu", "opencv-python or opencv-python-headless", "numpy",
)  # fmt: skip


class _Check(NamedTuple):
    """One line of the report."""

    name: str
    value: str
    remedy: str | None = None
    """What to do, or None if all is well."""
    fatal: bool = False
    """Whether nothing works until this is repaired."""


def doctor() -> None:
    """Check what is installed on this machine.

    Prints a remedy for whatever is missing. Exit code: 0 all is well, 1 something vital is missing.
    """
    checks = [
        _Check("python", f"{platform.python_version()} on {platform.platform(terse=True)}"),
        *[_check_package(*names.split(" or ")) for names in PACKAGES],
        *_check_device(),
        _check_threads(),
        _check_tokenizers(),
        *[_check_preset(name) for name in config.available_presets()],
        _Check("weights folder", str(weights.user_root())),
    ]
    table = Table.grid("name", "value", padding=(0, 2))
    for check in checks:
        table.add_row(check.name, check.value)
    out.print(table)
    for check in checks:
        if check.remedy:
            out.print(f"{check.name} {check.value}: {check.remedy}", soft_wrap=True)
    if any(check.fatal for check in checks):
        raise typer.Exit(1)


def _check_package(*names: str) -> _Check:
    for name in names:
        try:
            return _Check(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            continue
    return _Check(names[0], "missing", f"run `pip install {names[0]}`", fatal=True)


def _check_device() -> list[_Check]:
    import torch

    if not torch.cuda.is_available():
        return [_Check("device", "cpu")]
    device = _Check("device", f"cuda ({torch.cuda.get_device_name()})")
    if any(package.metadata["Name"] == "onnxruntime-gpu" for package in metadata.distributions()):
        return [device]
    remedy = "for ONNX detectors on the GPU, replace onnxruntime by onnxruntime-gpu"
    return [device, _Check("onnxruntime device", "cpu only", remedy)]


def _check_threads() -> _Check:
    import torch

    on_linux = hasattr(os, "sched_getaffinity")  # counts the cores that this process may use
    cores = len(os.sched_getaffinity(0)) if on_linux else os.cpu_count() or 1
    threads = torch.get_num_threads()
    limit = os.environ.get("OMP_NUM_THREADS")
    value = f"{threads} of {cores} cores"
    if threads < cores and limit:
        return _Check("threads", f"{value} (OMP_NUM_THREADS={limit})", "unset OMP_NUM_THREADS")
    return _Check("threads", value)


def _check_tokenizers() -> _Check:
    if find_spec("transformers"):
        return _Check("SigLIP tokenizers", "transformers is installed")
    remedy = 'run `pip install "openvocab[transformers]"`'
    return _Check("SigLIP tokenizers", "not installed", remedy)


def _check_preset(name: str) -> _Check:
    models = config.load_preset(name).models
    parts = models.detector, models.encoder
    try:
        for part in parts:
            weights.verify(part)
    except OpenVocabError as error:
        bundled = all(weights.manifest()[part].bundled for part in parts)
        remedy = "reinstall openvocab" if bundled else f"run `openvocab weights pull {name}`"
        problem = "not pulled" if isinstance(error, WeightsNotFoundError) else "damaged"
        return _Check(f"preset {name}", problem, remedy, fatal=bundled)
    return _Check(f"preset {name}", "ready")
