"""Weights by name: what the manifest lists, where the files are, and how they are pulled."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from platformdirs import user_cache_path

from openvocab._internal.files import package_data
from openvocab.errors import WeightsError, WeightsNotFoundError, did_you_mean
from openvocab.weights._download import DownloadError, Progress, download, find_damage


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
        parts = PurePosixPath(self.path).parts
        if not parts or {"/", ".."} & {*parts} or {"\\", ":"} & {*self.path}:
            raise WeightsError(f"{self.path!r} leaves the weights folder; correct the manifest.")
        if self.url is not None and urlsplit(self.url).scheme not in ("http", "https"):
            raise WeightsError(f"{self.url!r} is not http or https; correct the manifest.")


@dataclass(frozen=True, slots=True)
class Weights:
    """A named bundle; `kind` is `encoder` (a folder), `detector` or `prototypes` (one file)."""

    name: str
    kind: str
    licence: str
    source: str
    bundled: bool
    files: tuple[WeightsFile, ...]

    def __post_init__(self) -> None:
        folders = {PurePosixPath(file.path).parent for file in self.files}
        is_file = self.kind in {"detector", "prototypes"} and len(self.files) == 1
        if len(folders) != 1 or not (is_file or self.kind == "encoder"):
            raise WeightsError(
                f"{self.name} is neither a detector of one file nor an encoder of one folder; "
                "correct the manifest."
            )

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
        bundles: list[dict[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8"))["bundle"]
        entries = [
            Weights(**bundle | {"files": tuple(WeightsFile(**file) for file in bundle["files"])})
            for bundle in bundles
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: {error} Correct it or reinstall openvocab.") from error
    return MappingProxyType({entry.name: entry for entry in entries})


def bundled_root() -> Path:
    """The folder of the weights that ship with the package."""
    return package_data("weights")


def user_root() -> Path:
    """The folder of pulled weights: `OPENVOCAB_WEIGHTS`, else in the user's cache folder."""
    chosen = os.environ.get("OPENVOCAB_WEIGHTS")
    return Path(chosen).expanduser() if chosen else user_cache_path("openvocab") / "weights"


def resolve(name: str | os.PathLike[str], entries: Mapping[str, Weights] | None = None) -> Path:
    """The path on this machine of a name in the manifest, or of a file or folder; never downloads.

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
    return entry.path_in(_folder_of(entry))


def verify(name: str, entries: Mapping[str, Weights] | None = None) -> bool:
    """Compare the files of a bundle with the manifest's hashes, or those recorded by the pull.

    Returns:
        Whether a hash is known for every file; other files are only checked not to be empty.

    Raises:
        WeightsNotFoundError: the name is unknown, or its files are not on this machine.
        WeightsError: a file has the wrong size or hash.
    """
    entry = _entry(name, entries)
    folder = _folder_of(entry)
    for file in entry.files:
        if damage := _damage(folder / file.path, file):
            raise WeightsError(f"{folder / file.path} {damage}; {_remedy(entry)}.")
    return all(_sha256(folder / file.path, file) for file in entry.files)


def pull(
    name: str, *, progress: Progress | None = None, entries: Mapping[str, Weights] | None = None
) -> Path:
    """Download missing or damaged files of a bundle into `user_root()`; resumes partial downloads.

    Args:
        name: a name in the manifest.
        progress: called with the bytes so far and the total (None: unknown) of the current file.
        entries: a manifest in place of the package's own.

    Raises:
        WeightsNotFoundError: the name is unknown.
        WeightsError: there is no network, the host refuses, the transfer is cut off, the size or
            hash is wrong, or the disk is full.
    """
    entry = _entry(name, entries)
    if entry.bundled:
        verify(name, entries)
        return resolve(name, entries)
    for file in entry.files:
        path = user_root() / file.path
        if not path.is_file() or _damage(path, file):
            _pull_file(file, path, _remedy(entry), progress)
    return entry.path_in(user_root())


def _pull_file(file: WeightsFile, path: Path, remedy: str, progress: Progress | None) -> None:
    import httpx

    try:
        digest = download(file.url or "", path, file.bytes, file.sha256, progress)
        if not file.sha256:
            _record(path).write_text(digest, encoding="ascii")
    except (DownloadError, httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WeightsError(
            f"{file.url}: {reason}; check the network and {path.parent}, and {remedy} again."
        ) from error


def _record(path: Path) -> Path:
    """The file beside a pulled one that keeps its hash, for files without one in the manifest."""
    return path.with_name(f"{path.name}.sha256")


def _sha256(path: Path, file: WeightsFile) -> str | None:
    record = _record(path)
    return file.sha256 or (record.read_text(encoding="ascii") if record.is_file() else None)


def _damage(path: Path, file: WeightsFile) -> str | None:
    return find_damage(path, file.bytes, _sha256(path, file))


def _remedy(entry: Weights) -> str:
    return "reinstall openvocab" if entry.bundled else f"run `openvocab weights pull {entry.name}`"


def _entry(name: str, entries: Mapping[str, Weights] | None) -> Weights:
    entries = manifest() if entries is None else entries
    if name in entries:
        return entries[name]
    if Path(name).suffix or Path(name).name != name:
        raise WeightsNotFoundError(f"There is no file {name}; check the path.")
    raise WeightsNotFoundError(f"Unknown weights {name!r}; {did_you_mean(name, entries)}")


def _folder_of(entry: Weights) -> Path:
    """The folder that holds all files of the bundle."""
    for root in (bundled_root(), user_root()):
        if all((root / file.path).is_file() for file in entry.files):
            return root
    raise WeightsNotFoundError(
        f"Weights {entry.name!r} are neither in {bundled_root()} nor in {user_root()}; "
        f"{_remedy(entry)}."
    )
