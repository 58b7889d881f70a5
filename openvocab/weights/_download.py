"""Downloads one file over HTTP(S): resumed, checked, and only then renamed to its final name."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from openvocab._internal import files

if TYPE_CHECKING:
    import httpx

Progress = Callable[[int, int | None], None]
"""Called with the bytes so far and the total (None: unknown) of the current file."""

logger = logging.getLogger(__name__)


class DownloadError(Exception):
    """The server refuses, or what it sends is not the file; the message is a clause."""


def find_damage(path: Path, size: int | None, sha256: str | None) -> str | None:
    """Compare a file with its size and hash; None is not checked.

    Returns:
        What is wrong, as the predicate of a message; None if nothing is.

    >>> find_damage(Path(__file__), 1, None).endswith("bytes, not 1")
    True
    """
    actual = path.stat().st_size
    if not actual:
        return "is empty"
    if size is not None and actual != size:
        return f"has {actual} bytes, not {size}"
    if sha256 is not None and (digest := files.sha256(path)) != sha256.lower():
        return f"has SHA-256 {digest}, not {sha256}"
    return None


def download(
    url: str, target: Path, size: int | None, sha256: str | None, progress: Progress | None
) -> str:
    """Download to `target.part`, check, then rename; a partial file never has the final name.

    Without a hash, the one that Hugging Face publishes for large files is checked. A redirect from
    https to http is refused.

    Returns:
        SHA-256 of the file.

    Raises:
        DownloadError: the host refuses, or the size or hash is wrong.
        httpx.HTTPError: there is no network, or the transfer is cut off.
        OSError: the file cannot be written.
    """
    import httpx

    def require_https(request: httpx.Request) -> None:
        if url.startswith("https:") and request.url.scheme != "https":
            raise DownloadError("redirects to plain http")

    part = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    with httpx.Client(
        headers={"Accept-Encoding": "identity"},
        timeout=httpx.Timeout(30, connect=10),
        follow_redirects=True,
        event_hooks={"request": [require_https]},
    ) as client:
        published = _fill(part, client, url, size, progress)
    expected = sha256 or published
    if damage := find_damage(part, size, expected):
        part.unlink()
        raise DownloadError(damage)
    if not expected:
        logger.warning("%s: no hash published; only its size was checked", target.name)
    part.replace(target)
    _etag_file(part).unlink(missing_ok=True)
    return expected or files.sha256(target)


def _fill(
    part: Path, client: "httpx.Client", url: str, size: int | None, progress: Progress | None
) -> str | None:
    """Write `part`, or the rest of it if the server still has that version; returns its hash."""
    etag_file = _etag_file(part)
    done = part.stat().st_size if part.is_file() and etag_file.is_file() else 0
    headers = {"Range": f"bytes={done}-", "If-Range": etag_file.read_text("ascii")} if done else {}
    with client.stream("GET", url, headers=headers) as response:
        if done and response.status_code == 416:  # the part is whole or too long
            part.unlink()
            return _fill(part, client, url, size, progress)
        span = response.headers.get("Content-Range", "")
        resumed = response.status_code == 206 and span.startswith(f"bytes {done}-")
        if not resumed and response.status_code != 200:
            raise DownloadError(f"answers HTTP {response.status_code}")
        done = done if resumed else 0
        length = response.headers.get("Content-Length", "")
        total = done + int(length) if length.isdecimal() else size
        if size not in (None, total):
            raise DownloadError(f"has {total} bytes, not {size}")
        etag = response.headers.get("ETag", "")
        with part.open("ab" if resumed else "wb") as file:
            etag_file.unlink(missing_ok=True)
            if etag.startswith('"') and etag.isascii():  # a weak ETag must not guard a range
                etag_file.write_text(etag, "ascii")
            for chunk in response.iter_bytes():
                done += file.write(chunk)
                if progress:
                    progress(done, total)
        return _published_sha256(response)


def _published_sha256(response: "httpx.Response") -> str | None:
    """The SHA-256 that Hugging Face sends, on its redirect, for files in its large-file store."""
    for hop in (*response.history, response):
        linked = hop.headers.get("X-Linked-Etag", "").strip('"')
        if re.fullmatch("[0-9a-fA-F]{64}", linked):
            return str(linked)
    return None


def _etag_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")
