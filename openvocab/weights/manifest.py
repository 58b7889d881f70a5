"""Weights by name: what the manifest lists, where the files are, and how they are fetched."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from openvocab._internal.files import package_data
from openvocab.errors import WeightsError, WeightsNotFoundError, did_you_mean
from openvocab.weights.download import Progress, damage, fetch, record


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """One file of a bundle.

    Raises:
        WeightsError: the path leaves the weights folder, or the URL is not http(s).
    """

    path: str
    """Relative to the weights folder, with forward slashes."""
    bytes: int | None = None
    """Size; None if the source does not publish it."""
    sha256: str | None = None
    url: str | None = None
    """Address to fetch it from; None if the file ships with the package."""

    def __post_init__(self) -> None:
        pure = PurePosixPath(self.path)
        if (
            not pure.parts
            or pure.is_absolute()
            or ".." in pure.parts
            or set(self.path) & set("\\:")
        ):
            raise WeightsError(f"{self.path!r} leaves the weights folder; mend the manifest.")
        if self.url is not None and urlsplit(self.url).scheme not in ("http", "https"):
            raise WeightsError(f"{self.url!r} is not http or https; mend the manifest.")


@dataclass(frozen=True, slots=True)
class Weights:
    """A named bundle; `kind` is `detector` (one file) or `encoder` (the files of one folder)."""

    name: str
    kind: str
    licence: str
    source: str
    bundled: bool
    files: tuple[WeightsFile, ...]

    def __post_init__(self) -> None:
        folders = {PurePosixPath(file.path).parent for file in self.files}
        files = len(self.files)
        if len(folders) != 1 or self.kind not in ("detector", "encoder"):
            raise WeightsError(f"{self.name}: unknown kind or not one folder; mend the manifest.")
        if self.kind == "detector" and files != 1:
            raise WeightsError(f"{self.name}: a detector of {files} files; mend the manifest.")

    def path_in(self, root: Path) -> Path:
        """The path for a loader: the file of a detector, or the folder of an encoder."""
        first = root / self.files[0].path
        return first.parent if self.kind == "encoder" else first


@cache
def manifest(path: Path | None = None) -> Mapping[str, Weights]:
    """Read bundles by name from the package's own `MANIFEST.toml`, or from another file.

    Raises:
        WeightsError: the file cannot be read, or an entry is wrong.

    >>> manifest()["starter-detector"].kind
    'detector'
    """
    path = path or bundled_root() / "MANIFEST.toml"
    try:
        raw: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        entries = [
            Weights(**(entry | {"files": tuple(WeightsFile(**file) for file in entry["files"])}))
            for entry in raw["bundle"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: {error} Mend it or reinstall openvocab.") from error
    return MappingProxyType({entry.name: entry for entry in entries})


def bundled_root() -> Path:
    """The folder of the weights that ship with the package."""
    return package_data("weights")


def user_root() -> Path:
    """The folder of pulled weights: `OPENVOCAB_WEIGHTS`, else in the user's cache folder."""
    import platformdirs

    chosen = os.environ.get("OPENVOCAB_WEIGHTS")
    if chosen:
        return Path(chosen).expanduser()
    return Path(platformdirs.user_cache_dir("openvocab")) / "weights"


def resolve(name: str | os.PathLike[str], entries: Mapping[str, Weights] | None = None) -> Path:
    """The path on this machine of a name in the manifest, or of a file or folder; never fetches.

    Raises:
        WeightsNotFoundError: the name is unknown, or its files are not on this machine.

    >>> resolve("starter-detector").name
    'detector.onnx'
    """
    text = os.fspath(name)
    entries = manifest() if entries is None else entries
    if text and text not in entries and Path(text).exists():
        return Path(text)
    entry = _entry(text, entries)
    return entry.path_in(_located(entry))


def verify(name: str, entries: Mapping[str, Weights] | None = None) -> bool:
    """Compare the files of a bundle with the manifest's hashes, or those recorded by the pull.

    Returns:
        Whether a hash is known for every file; other files are only checked not to be empty.

    Raises:
        WeightsNotFoundError: the name is unknown, or its files are not on this machine.
        WeightsError: a file has the wrong size or hash.
    """
    entry = _entry(name, manifest() if entries is None else entries)
    root = _located(entry)
    for file in entry.files:
        wrong = _wrong(root / file.path, file)
        if wrong:
            cure = (
                "reinstall openvocab" if entry.bundled else f"run `openvocab weights pull {name}`"
            )
            raise WeightsError(f"{root / file.path} {wrong}; {cure}.")
    return all(_hash(root / file.path, file) for file in entry.files)


def pull(
    name: str, *, progress: Progress | None = None, entries: Mapping[str, Weights] | None = None
) -> Path:
    """Fetch missing or damaged files of a bundle into `user_root()`; resumes partial downloads.

    Args:
        name: a name in the manifest.
        progress: called with the bytes so far and the total (None: unknown) of the current file.
        entries: a manifest in place of the package's own.

    Raises:
        WeightsNotFoundError: the name is unknown.
        WeightsError: there is no network, the host refuses, the transfer is cut off, the size or
            hash is wrong, or the disk is full.
    """
    entry = _entry(name, manifest() if entries is None else entries)
    try:
        verify(name, {name: entry})
    except (WeightsError, WeightsNotFoundError):
        if entry.bundled:
            raise
        for file in entry.files:
            target = user_root() / file.path
            if not target.is_file() or _wrong(target, file):
                fetch(
                    file.url or "",
                    target,
                    size=file.bytes,
                    sha256=file.sha256,
                    progress=progress,
                    again=f"run `openvocab weights pull {name}` again",
                )
        return entry.path_in(user_root())
    return resolve(name, {name: entry})


def _hash(path: Path, file: WeightsFile) -> str | None:
    known = record(path)
    return file.sha256 or (known.read_text(encoding="ascii") if known.is_file() else None)


def _wrong(path: Path, file: WeightsFile) -> str | None:
    return damage(path, file.bytes, _hash(path, file))


def _entry(name: str, entries: Mapping[str, Weights]) -> Weights:
    if name in entries:
        return entries[name]
    if Path(name).suffix or Path(name).name != name:
        raise WeightsNotFoundError(f"There is no file {name}; check the path.")
    raise WeightsNotFoundError(
        f"No weights and no file are called {name!r}; {did_you_mean(name, entries)}"
    )


def _located(entry: Weights) -> Path:
    """The folder that holds all files of the bundle."""
    for root in (bundled_root(), user_root()):
        if all((root / file.path).is_file() for file in entry.files):
            return root
    cure = f"Run `openvocab weights pull {entry.name}` to download it."
    if entry.bundled:
        cure = "Reinstall openvocab."
    raise WeightsNotFoundError(
        f"Weights {entry.name!r} are neither in {bundled_root()} nor in {user_root()}. {cure}"
    )
