"""Reads files of the package, text, TOML and JSON, hashes files, and writes them atomically."""

import hashlib
import json
import os
import tomllib
import uuid
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from openvocab.errors import ConfigError, OpenVocabError, os_reason


def package_data(folder: str) -> Path:
    """A folder that ships with the package: in the wheel, else in the source checkout.

    >>> (package_data("configs") / "starter.toml").is_file()
    True
    """
    package = Path(__file__).parents[1]
    inside = package / "data"
    return (inside if inside.is_dir() else package.parent) / folder


def numbered_paths(path: Path) -> Iterator[Path]:
    """`out.mp4`, `out-2.mp4`, `out-3.mp4`, ...

    >>> names = numbered_paths(Path("out.mp4"))
    >>> next(names).name, next(names).name
    ('out.mp4', 'out-2.mp4')
    """
    for number in count(1):
        yield path if number == 1 else path.with_stem(f"{path.stem}-{number}")


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file, without blank lines and `# comments`.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read ({os_reason(error)}); give a text file."
        ) from error
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def read_table(path: Path) -> dict[str, Any]:
    """Read a TOML or `.json` file.

    Raises:
        ConfigError: the file cannot be read, or is not what its name says.
    """
    if not path.is_file():
        raise ConfigError(f"There is no file {path}; check the path.")
    as_json = path.suffix.lower() == ".json"
    try:
        text = path.read_text(encoding="utf-8-sig")
        table = json.loads(text) if as_json else tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        kind = "JSON" if as_json else "TOML"
        raise ConfigError(f"{path}: not a readable {kind} file ({error}); correct it.") from error
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: needs names and values at its top; correct it.")
    return table


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: str | os.PathLike[str], payload: bytes) -> None:
    """Write to a temporary file beside the target, then rename it; creates folders.

    Raises:
        OpenVocabError: the path cannot be a file, or the disk is full.
    """
    target = Path(path)
    try:
        # Unique, and of fixed length: the target's name may already be as long as names can be.
        part = target.with_name(f".{uuid.uuid4().hex}.part")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(payload)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        raise OpenVocabError(
            f"{target} cannot be written ({os_reason(error)}); choose another path."
        ) from error
