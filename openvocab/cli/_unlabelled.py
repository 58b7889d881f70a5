"""`openvocab calibrate --unlabelled`: image prototypes of the labels, from unlabelled photos."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import typer
from rich.progress import MofNCompleteColumn, TimeRemainingColumn

from openvocab._internal.files import write_atomic
from openvocab.cli._console import complain, out, progress
from openvocab.config import Preset
from openvocab.errors import ConfigError, one_line
from openvocab.io._images import find_images

_MAX_NAMES = 20  # listed labels without a prototype


def refuse_labelled_options(given: Sequence[str]) -> None:
    """Check that no options for labelled images were given.

    Raises:
        ConfigError: some were given.
    """
    if given:
        raise ConfigError(
            f"--unlabelled makes no use of {' and '.join(given)}; leave that out, or --unlabelled."
        )


def calibrate_unlabelled(
    sources: Sequence[str],
    preset: Preset,
    folder: Path | None,
    own_file: Path | None,
    *,
    limit: int | None,
    device: str | None,
) -> None:
    """Write image prototypes of the detector's labels, and a preset that uses them.

    Args:
        sources: files, folders and globs of photos.
        preset: names the two models; its prototypes, if any, are replaced.
        folder: where both files are written; None for `runs/PHOTOS-PRESET`.
        own_file: the preset's file, to update it; the prototypes are written beside it.
        limit: the maximum number of photos, evenly spaced; None uses all.
        device: device of the networks.

    Raises:
        ImageError: there are no photos.
        DatasetError: no label has two confident boxes in them.
    """
    all_paths = find_images(sources)
    paths = _sample_evenly(all_paths, limit)
    name = "prototypes.npz"
    target = (folder or _default_folder(sources[0], all_paths[0], preset)) / f"{preset.name}.toml"
    if own_file is not None:  # presets in one folder may have different encoders
        target, name = own_file, f"{own_file.stem}-prototypes.npz"

    from openvocab.detector import OpenVocabDetector
    from openvocab.evaluation._prototypes import make_prototypes

    # The preset's prototypes may be missing, or made with another encoder.
    without_prototypes = replace(preset, models=replace(preset.models, prototypes=None))
    detector = OpenVocabDetector.from_preset(without_prototypes, device=device)
    try:
        with progress(MofNCompleteColumn(), TimeRemainingColumn()) as bar:
            prototypes, errors = make_prototypes(detector, bar.track(paths, description="encoding"))
    except KeyboardInterrupt as error:
        complain("stopped; nothing is written: run it again, or with a lower --limit.")
        raise typer.Exit(130) from error
    for message in errors:
        complain(message)
    summary = (
        f"{len(prototypes.labels)} of {len(detector.proposer.labels)} labels have a prototype, "
        f"from {len(paths) - len(errors)} of {len(all_paths)} photos"
    )
    out.print(summary, soft_wrap=True)
    missing = [label for label in detector.proposer.labels if label not in prototypes.labels]
    if missing:
        out.print(
            one_line(f"without one, their text alone counts: {_few(missing)}"), soft_wrap=True
        )
    prototypes.save(target.with_name(name))
    updated = replace(preset, models=replace(preset.models, prototypes=name))
    comment = f"# openvocab calibrate --unlabelled: {summary}.\n"
    write_atomic(target, (comment + updated.to_toml()).encode())
    out.print(f"{target}, {target.with_name(name)}", soft_wrap=True)


def _sample_evenly(paths: list[Path], limit: int | None) -> list[Path]:
    """At most `limit` paths, evenly spaced, as neighbours are often frames of one video.

    >>> [path.name for path in _sample_evenly([Path("a"), Path("b"), Path("c"), Path("d")], 2)]
    ['a', 'c']
    """
    count = len(paths) if limit is None else min(limit, len(paths))
    return [paths[index * len(paths) // count] for index in range(count)]


def _default_folder(source: str, first: Path, preset: Preset) -> Path:
    """Named after the file or folder; for a glob, after the folder of its first photo."""
    path = Path(source) if Path(source).exists() else first.parent
    return Path("runs") / f"{path.resolve().stem}-{preset.name}"


def _few(names: Sequence[str]) -> str:
    omitted = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {omitted} more" if omitted > 0 else "")
