"""Downloads one file over http(s): resumed, checked, and only then given its final name."""

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from openvocab._internal import files
from openvocab.errors import WeightsError

if TYPE_CHECKING:
    import httpx

Progress = Callable[[int, int | None], None]
"""Called with the bytes so far and the total (None: unknown) of the current file."""

logger = logging.getLogger(__name__)


def damage(path: Path, size: int | None, sha256: str | None) -> str | None:
    """What is wrong with a file of known size and hash, if anything; None is not checked.

    >>> damage(Path(__file__), 1, None).endswith("bytes, not 1")
    True
    """
    if not path.stat().st_size:
        return "is empty"
    if size is not None and path.stat().st_size != size:
        return f"has {path.stat().st_size} bytes, not {size}"
    if sha256 is not None:
        found = files.sha256(path)
        if found != sha256.lower():
            return f"has SHA-256 {found}, not {sha256}"
    return None


def record(target: Path) -> Path:
    """The file beside a pulled one that records its hash, in case its source publishes none."""
    return target.with_name(target.name + ".sha256")


def fetch(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    progress: Progress | None = None,
    again: str = "try again",
) -> None:
    """Download to `target.part`, check, then rename; a partial file never has the final name.

    An existing part is resumed if the server proves that it belongs to the same version.

    Args:
        url: http or https; a redirect from https to http is refused.
        target: path of the whole file; its folder is created.
        size: size in bytes; None uses what the server states.
        sha256: hash; None uses what Hugging Face publishes for large files, if anything.
        progress: see `Progress`.
        again: the remedy in an error message, such as a command to run again.

    Raises:
        WeightsError: there is no network, the host refuses, the transfer is cut off, the size or
            hash is wrong, or the disk is full.
    """
    import httpx

    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        total, published = _download(url, part, size, sha256, progress, again)
        done = part.stat().st_size
        if total is not None and done < total:
            raise WeightsError(f"{url} stopped at {done} of {total} bytes; {again} to resume.")
        wrong = damage(part, total, sha256 or published)
        if wrong:
            part.unlink()
            raise WeightsError(f"{url}: the download {wrong}; {again}, or report it.")
        if not (sha256 or published):
            logger.warning("%s: no hash published; only its size was checked", target.name)
        if not sha256:
            record(target).write_text(published or files.sha256(part), encoding="ascii")
        part.replace(target)
        _tag(part).unlink(missing_ok=True)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise WeightsError(f"{url}: {_line(error)}; check the network, then {again}.") from error
    except OSError as error:
        raise WeightsError(f"{part}: {_line(error)}; mend the folder, then {again}.") from error


def _download(
    url: str,
    part: Path,
    size: int | None,
    sha256: str | None,
    progress: Progress | None,
    again: str,
) -> tuple[int | None, str | None]:
    """Fill `part`; returns the size in bytes and SHA-256 that the server or manifest promises.

    Without a validator or a known hash, nothing is resumed, as two versions could be mixed.
    """
    import httpx

    tag = _tag(part).read_text(encoding="ascii") if _tag(part).is_file() else ""
    start = part.stat().st_size if part.is_file() and (tag or sha256) else 0
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-"} | ({"If-Range": tag} if tag else {})
    timeout = httpx.Timeout(30, connect=10)
    with httpx.stream(
        "GET", url, headers=headers, follow_redirects=True, timeout=timeout
    ) as response:
        if start and response.status_code == 416:  # the part is whole or stale: start again
            part.unlink()
            return _download(url, part, size, sha256, progress, again)
        hops = (*response.history, response)
        if url.startswith("https:") and any(hop.url.scheme != "https" for hop in hops):
            raise WeightsError(f"{url} leads to plain http; report it, do not use it.")
        resumed = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if response.status_code != 200 and not (response.status_code == 206 and start and resumed):
            raise WeightsError(f"{url}: HTTP {response.status_code}; check the network, {again}.")
        start = start if response.status_code == 206 else 0
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else size
        if size is not None and total != size:
            raise WeightsError(
                f"{url} has {total} bytes, not {size}; update openvocab, then {again}."
            )
        _write(response, part, start, total, progress)
        return total, _published(response)


def _write(
    response: "httpx.Response", part: Path, start: int, total: int | None, progress: Progress | None
) -> None:
    with part.open("ab" if start else "wb") as stream:
        etag = response.headers.get("ETag", "")
        strong = etag.startswith('"') and etag.isascii()  # a weak ETag must not guard a range
        _tag(part).write_text(etag if strong else "", encoding="ascii")
        for chunk in response.iter_bytes():
            stream.write(chunk)
            start += len(chunk)
            if progress:
                progress(start, total)
        stream.flush()
        os.fsync(stream.fileno())


def _published(response: "httpx.Response") -> str | None:
    """The SHA-256 that Hugging Face sends, on its redirect, for files in its large-file store."""
    for hop in (*response.history, response):
        linked = hop.headers.get("X-Linked-Etag", "").strip('"')
        if re.fullmatch("[0-9a-fA-F]{64}", linked):
            return str(linked)
    return None


def _tag(part: Path) -> Path:
    """The file beside a part that records the validator (ETag) of its version."""
    return part.with_name(part.name + ".etag")


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
