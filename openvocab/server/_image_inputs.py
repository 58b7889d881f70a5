"""Reads the bytes of an image that was sent as base64, or as a URL that the operator allows."""

import base64
import binascii
from collections.abc import Sequence
from urllib.parse import unquote

import httpx

from openvocab.errors import ConfigError, ImageError

SCHEMES = ("http", "https")
URL_SAFE_BASE64 = str.maketrans("-_", "+/")
AMBIGUOUS = (b"%2f", b"%5c", b"%25", b"%00", b"\\")  # servers interpret these differently in a path


class ImageReader:
    """Decodes base64, and fetches from allowed URLs only; redirects are not followed."""

    def __init__(self, allowed: Sequence[str], *, seconds: float = 10.0) -> None:
        """Check the allowed URLs; nothing is fetched yet.

        Args:
            allowed: prefixes such as `https://host/folder/`, for images in that folder and below
                it; if empty, no URL is allowed.
            seconds: timeout for the response of a host, and for each part of its body.

        Raises:
            ConfigError: one of them is not a valid prefix.
        """
        self._allowed = [_parse_prefix(url) for url in allowed]
        # Not compressed: a few bytes could unpack to gigabytes before they were counted.
        headers = {"accept-encoding": "identity"}
        self._client = httpx.AsyncClient(timeout=seconds, follow_redirects=False, headers=headers)

    async def read(self, text: str, max_bytes: int) -> bytes:
        """Read the encoded bytes of an image that a client sent.

        Raises:
            ImageError: it is neither base64 nor an allowed URL, has more than `max_bytes`, or
                cannot be fetched.
        """
        if "://" in text[:16] or text.startswith("file:"):
            return await self._fetch(self._parse_url(text), max_bytes)
        if text.startswith("data:"):
            text = text.rpartition(",")[2]
        # Some programs break base64 into lines, and some use its URL-safe alphabet.
        standard = "".join(text.split()).translate(URL_SAFE_BASE64)
        try:
            return base64.b64decode(standard, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ImageError(
                "The image is not valid base64; send a JPEG or PNG encoded in base64."
            ) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _parse_url(self, text: str) -> httpx.URL:
        """The parsed URL, which is also the one fetched, so it cannot be parsed in two ways."""
        if not self._allowed:
            raise ImageError("URLs are not fetched here; send the image itself.")
        try:
            url = httpx.URL(text)
            allowed = any(_is_below(url, prefix) for prefix in self._allowed)
        except (httpx.InvalidURL, ValueError) as error:
            raise ImageError("The URL of the image is invalid; send the image itself.") from error
        if not allowed:
            raise ImageError("This URL is not allowed; send the image itself.")
        return url

    async def _fetch(self, url: httpx.URL, max_bytes: int) -> bytes:
        image = bytearray()
        try:
            async with self._client.stream("GET", url) as response:
                if response.status_code != httpx.codes.OK:
                    status = response.status_code
                    raise ImageError(f"{url} returned status {status}; send the URL of an image.")
                if "content-encoding" in response.headers:
                    raise ImageError(f"{url} is sent compressed; send the image itself.")
                async for part in response.aiter_raw():
                    image += part
                    if len(image) > max_bytes:
                        raise ImageError(
                            f"{url} has more than {max_bytes} bytes; send a smaller image."
                        )
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise ImageError(f"{url} cannot be fetched ({reason}); try again later.") from error
        finally:
            self._client.cookies.clear()  # cookies of one client's fetch are not sent for another
        return bytes(image)


def _parse_prefix(text: str) -> httpx.URL:
    """An allowed URL prefix, ending in a slash.

    >>> _parse_prefix("https://images.example.com/street")
    URL('https://images.example.com/street/')
    """
    try:
        url = httpx.URL(text)
        valid = url.scheme in SCHEMES and url.host and "*" not in url.host
        valid = valid and (url.port or 80) < 65536
        valid = valid and not (url.userinfo or url.query or url.fragment)
    except (httpx.InvalidURL, ValueError):
        valid = False
    if not valid:
        raise ConfigError(f"{text!r} is not a valid prefix; use a URL like https://host/folder/.")
    return url.copy_with(path=url.path.rstrip("/") + "/")


def _is_below(url: httpx.URL, prefix: httpx.URL) -> bool:
    """Whether a URL is on that host and below that folder, whichever server interprets its path.

    >>> prefix = _parse_prefix("https://images.example.com/street/")
    >>> _is_below(httpx.URL("https://images.example.com/street/1/a.jpg"), prefix)
    True
    >>> _is_below(httpx.URL("https://images.example.com.evil.com/street/a.jpg"), prefix)
    False
    >>> _is_below(httpx.URL("https://images.example.com/street/%2e%2e/secret.jpg"), prefix)
    False
    >>> _is_below(httpx.URL("https://images.example.com@evil.com/street/a.jpg"), prefix)
    False
    """
    path = url.raw_path.partition(b"?")[0]
    return (
        url.scheme in SCHEMES
        and (url.scheme, url.host, url.port) == (prefix.scheme, prefix.host, prefix.port)
        and not url.userinfo
        and path.startswith(prefix.raw_path)
        and not any(mark in path.lower() for mark in AMBIGUOUS)
        and not any(part.startswith("..") for part in unquote(path, errors="strict").split("/"))
    )
