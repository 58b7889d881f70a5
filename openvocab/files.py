"""Files of the package, and files that are written whole or not at all."""

import os
from pathlib import Path

from openvocab.errors import OpenVocabError

__all__ = ["bundled", "write"]


def bundled(folder: str) -> Path:
    """A folder that ships with the package: in the wheel, else in the source checkout.

    >>> (bundled("configs") / "starter.toml").is_file()
    True
    """
    package = Path(__file__).parent
    inside = package / "data"
    return (inside if inside.is_dir() else package.parent) / folder


def write(path: str | os.PathLike[str], payload: bytes) -> None:
    """Write to a file beside it, then rename; folders are made.

    Raises:
        OpenVocabError: there can be no such file, or the disk is full.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(payload)
        part.replace(target)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OpenVocabError(
            f"{target} cannot be written ({reason}); choose another path."
        ) from error
