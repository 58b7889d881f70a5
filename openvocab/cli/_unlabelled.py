"""`openvocab calibrate --unlabelled`: what a detector's labels look like, from any photos."""

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

_MAX_NAMES = 20  # of labels without a prototype


def refuse_labelled_options(given: Sequence[str]) -> None:
    """Check that no option came along that only labelled images need.

    Raises:
        ConfigError: some did.
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
        preset: the two models; its own prototypes, if any, are replaced.
        folder: where both files are written; None is `runs/PHOTOS-PRESET`.
        own_file: the preset's file if that is to be changed; the prototypes are put beside it.
        limit: most photos, evenly spread over those that were found; None uses all.
        device: of the networks.

    Raises:
        ImageError: there are no photos.
        DatasetError: no label has two confident boxes in them.
    """
    found = find_images(sources)
    paths = _spread(found, limit)
    name = "prototypes.npz"
    target = (folder or _default_folder(sources[0], found[0], preset)) / f"{preset.name}.toml"
    if own_file is not None:  # presets in one folder may have different encoders
        target, name = own_file, f"{own_file.stem}-prototypes.npz"

    from openvocab.detector import OpenVocabDetector
    from openvocab.evaluation._prototypes import make_prototypes

    # Without the preset's prototypes, which may be missing, or of another encoder.
    bare = replace(preset, models=replace(preset.models, prototypes=None))
    detector = OpenVocabDetector.from_preset(bare, device=device)
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
        f"from {len(paths) - len(errors)} of {len(found)} photos"
    )
    out.print(summary, soft_wrap=True)
    missing = [label for label in detector.proposer.labels if label not in prototypes.labels]
    if missing:
        out.print(
            one_line(f"without one, their text alone counts: {_few(missing)}"), soft_wrap=True
        )
    prototypes.save(target.with_name(name))
    written = replace(preset, models=replace(preset.models, prototypes=name))
    comment = f"# openvocab calibrate --unlabelled: {summary}.\n"
    write_atomic(target, (comment + written.to_toml()).encode())
    out.print(f"{target}, {target.with_name(name)}", soft_wrap=True)


def _spread(paths: list[Path], limit: int | None) -> list[Path]:
    """At most `limit` of the paths, evenly spread: neighbours are often frames of one video.

    >>> [path.name for path in _spread([Path("a"), Path("b"), Path("c"), Path("d")], 2)]
    ['a', 'c']
    """
    count = len(paths) if limit is None else min(limit, len(paths))
    return [paths[number * len(paths) // count] for number in range(count)]


def _default_folder(source: str, first: Path, preset: Preset) -> Path:
    """Named after the file or folder; for a glob, after the folder of its first photo."""
    path = Path(source) if Path(source).exists() else first.parent
    return Path("runs") / f"{path.resolve().stem}-{preset.name}"


def _few(names: Sequence[str]) -> str:
    rest = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {rest} more" if rest > 0 else "")
