"""The bytes of a picture that was sent as base64, or as an address that the operator allows."""

import base64
import binascii
from collections.abc import Sequence
from urllib.parse import unquote

import httpx

from openvocab.errors import ConfigError, ImageError

SCHEMES = ("http", "https")
FROM_ADDRESSES = str.maketrans("-_", "+/")
AMBIGUOUS = (b"%2f", b"%5c", b"%25", b"%00", b"\\")  # servers differ in what these mean in a path


class Pictures:
    """Fetches from the allowed addresses only; redirects are not followed."""

    def __init__(self, allowed: Sequence[str], *, seconds: float = 10.0) -> None:
        """Check the allowed addresses; nothing is fetched yet.

        Args:
            allowed: addresses such as `https://host/folder/`, for pictures in that folder and below
                it; if empty, no address is allowed.
            seconds: time within which a host must answer, and for each part of what it sends.

        Raises:
            ConfigError: one of them is not such an address.
        """
        self._allowed = [_folder(address) for address in allowed]
        # Not compressed: a few bytes could unpack to gigabytes before they were counted.
        plain = {"accept-encoding": "identity"}
        self._client = httpx.AsyncClient(timeout=seconds, follow_redirects=False, headers=plain)

    async def read(self, sent: str, max_bytes: int) -> bytes:
        """Read the bytes of a picture that a caller sent.

        Raises:
            ImageError: it is neither base64 nor an allowed address, has more than `max_bytes`, or
                cannot be fetched.
        """
        if "://" in sent[:16] or sent.startswith("file:"):
            return await self._fetch(self._checked(sent), max_bytes)
        _, _, tail = sent.rpartition(",") if sent.startswith("data:") else ("", "", sent)
        # Some programs break base64 into lines, and some use its URL-safe alphabet.
        plain = "".join(tail.split()).translate(FROM_ADDRESSES)
        try:
            return base64.b64decode(plain, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ImageError("The image is no base64; send a JPEG or PNG encoded so.") from error

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _checked(self, sent: str) -> httpx.URL:
        """The parsed address, which is also the one fetched, so it cannot be read in two ways."""
        if not self._allowed:
            raise ImageError("Addresses are not fetched here; send the picture itself.")
        try:
            address = httpx.URL(sent)
            allowed = any(_within(address, folder) for folder in self._allowed)
        except (httpx.InvalidURL, ValueError) as error:
            raise ImageError("The image is no address; send the picture itself.") from error
        if not allowed:
            raise ImageError("This address is not allowed; send the picture itself.")
        return address

    async def _fetch(self, address: httpx.URL, max_bytes: int) -> bytes:
        try:
            async with self._client.stream("GET", address) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise ImageError(
                        f"{address} answers {answer.status_code}; give the address of a picture."
                    )
                if "content-encoding" in answer.headers:
                    raise ImageError(f"{address} is sent compressed; send the picture itself.")
                picture = bytearray()
                async for part in answer.aiter_raw():
                    picture += part
                    if len(picture) > max_bytes:
                        raise ImageError(
                            f"{address} has more than {max_bytes} bytes; ask for less."
                        )
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise ImageError(f"{address} cannot be fetched ({why}); try again later.") from error
        finally:
            self._client.cookies.clear()  # one caller's are never sent for another
        return bytes(picture)


def _folder(address: str) -> httpx.URL:
    """An allowed address as a folder.

    >>> _folder("https://photos.example.com/street")
    URL('https://photos.example.com/street/')
    """
    try:
        url = httpx.URL(address)
        usable = url.scheme in SCHEMES and url.host and "*" not in url.host
        usable = usable and (url.port or 80) < 65536
        usable = usable and not (url.userinfo or url.query or url.fragment)
    except (httpx.InvalidURL, ValueError):
        usable = False
    if not usable:
        raise ConfigError(f"{address!r} allows nothing; give an address like https://host/folder/.")
    return url.copy_with(path=url.path.rstrip("/") + "/")


def _within(address: httpx.URL, folder: httpx.URL) -> bool:
    """Whether an address is on that host and below that folder, whoever interprets its path.

    >>> folder = _folder("https://photos.example.com/street/")
    >>> _within(httpx.URL("https://photos.example.com/street/1/a.jpg"), folder)
    True
    >>> _within(httpx.URL("https://photos.example.com.evil.com/street/a.jpg"), folder)
    False
    >>> _within(httpx.URL("https://photos.example.com/street/%2e%2e/secret.jpg"), folder)
    False
    >>> _within(httpx.URL("https://photos.example.com@evil.com/street/a.jpg"), folder)
    False
    """
    path = address.raw_path.partition(b"?")[0]
    return (
        address.scheme in SCHEMES
        and (address.scheme, address.host, address.port)
        == (folder.scheme, folder.host, folder.port)
        and not address.userinfo
        and path.startswith(folder.raw_path)
        and not any(mark in path.lower() for mark in AMBIGUOUS)
        and not any(part.startswith("..") for part in unquote(path, errors="strict").split("/"))
    )
