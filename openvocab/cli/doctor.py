"""`openvocab doctor`: what this machine has, and what it lacks, with remedies."""

import os
import platform
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec

import typer
from rich.table import Table

from openvocab import config, weights
from openvocab.cli.console import out
from openvocab.errors import OpenVocabError

# Alternative distributions: one of each group is enough.
PACKAGES = (
    ("openvocab",),
    ("torch",),
    ("torchvision",),
    ("ultralytics",),
    ("open_clip_torch",),
    ("supervision",),
    ("onnxruntime", "onnxruntime-gpu"),
    ("opencv-python", "opencv-python-headless"),
    ("numpy",),
)


@dataclass(frozen=True, slots=True)
class _Finding:
    """One line of the report."""

    name: str
    value: str
    remedy: str | None = None
    """What to do, or None if all is well."""
    fatal: bool = False
    """Whether nothing works until this is repaired."""


def doctor() -> None:
    """Check what this machine has and lacks.

    Prints a remedy for whatever is missing. Exit code: 0 all is well, 1 something vital is missing.
    """
    findings = _examine()
    table = Table.grid("what", "found", padding=(0, 2))
    for finding in findings:
        table.add_row(finding.name, finding.value)
    out.print(table)
    for finding in findings:
        if finding.remedy:
            out.print(f"{finding.name} {finding.value}: {finding.remedy}", soft_wrap=True)
    if any(finding.fatal for finding in findings):
        raise typer.Exit(1)


def _examine() -> list[_Finding]:
    """Versions, device, threads, optional parts and the weights of every preset; loads no model."""
    return [
        _Finding("python", f"{platform.python_version()} on {platform.platform(terse=True)}"),
        *[_version(*names) for names in PACKAGES],
        *_device(),
        _threads(),
        _tokenizers(),
        *[_preset(name) for name in config.available_presets()],
        _Finding("weights folder", str(weights.user_root())),
    ]


def _version(*names: str) -> _Finding:
    for name in names:
        try:
            return _Finding(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            continue
    return _Finding(names[0], "missing", f"run `pip install {names[0]}`", fatal=True)


def _device() -> list[_Finding]:
    import torch

    if not torch.cuda.is_available():
        return [_Finding("device", "cpu")]
    found = _Finding("device", f"cuda ({torch.cuda.get_device_name()})")
    if any(part.metadata["Name"] == "onnxruntime-gpu" for part in metadata.distributions()):
        return [found]
    remedy = "for ONNX detectors on the GPU, replace onnxruntime by onnxruntime-gpu"
    return [found, _Finding("onnxruntime device", "cpu only", remedy)]


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux: cores that this process may use
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _threads() -> _Finding:
    import torch

    threads, cores = torch.get_num_threads(), _cores()
    pinned = os.environ.get("OMP_NUM_THREADS")
    value = f"{threads} of {cores} cores"
    if threads < cores and pinned:
        return _Finding("threads", f"{value} (OMP_NUM_THREADS={pinned})", "unset OMP_NUM_THREADS")
    return _Finding("threads", value)


def _tokenizers() -> _Finding:
    if find_spec("transformers"):
        return _Finding("SigLIP tokenizers", "transformers is installed")
    return _Finding(
        "SigLIP tokenizers", "not installed", 'run `pip install "openvocab[transformers]"`'
    )


def _preset(name: str) -> _Finding:
    models = config.load_preset(name).models
    parts = weights.manifest()[models.detector], weights.manifest()[models.encoder]
    bundled = all(part.bundled for part in parts)
    try:
        for part in (models.detector, models.encoder):
            weights.verify(part)
    except OpenVocabError as error:
        remedy = "reinstall openvocab" if bundled else f"run `openvocab weights pull {name}`"
        lacking = "damaged" if not isinstance(error, FileNotFoundError) else "not pulled"
        return _Finding(f"preset {name}", lacking, remedy, fatal=bundled)
    return _Finding(f"preset {name}", "ready")
