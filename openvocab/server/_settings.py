"""What a server allows, and to whom."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from openvocab.errors import ConfigError
from openvocab.stream._capture import is_still
from openvocab.stream._zones import Zones

MIB = 1024**2
_ORIGIN = re.compile(r"https?://[^/\s*?#@]+")


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits, access rules and sources of one server."""

    max_batch: int = 8
    """Images per batch."""
    max_waiting: int = 32
    """Images that may wait for a batch; the next request gets 429."""
    timeout_s: float = 30.0
    """Seconds after which a request gets 504, or 408 if its body has not arrived."""
    max_mb: int = 32
    """MiB of a request body, and of all images that are fetched for it."""
    max_megapixels: float = 25.0
    """Megapixels of one image, checked before it is decoded."""
    max_words: int = 5000
    """Words in one request or vocabulary, including synonyms and negatives."""
    hosts: tuple[str, ...] = ()
    """Names, without ports, that a request may have in its `Host` header, such as those in
    `openvocab._internal.environment.LOOPBACK_HOSTS`; an empty tuple allows all."""
    origins: tuple[str, ...] = ()
    """Sites whose pages may send requests from a browser, such as `https://app.example.com`."""
    token: str = ""
    """Bearer token that clients must send; an empty string disables authentication."""
    vocabularies: Path | None = None
    """Folder for stored vocabularies; None keeps them in memory."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Videos and cameras that clients may start streams of: addresses by name."""
    zones: Mapping[str, Zones] = field(default_factory=dict)
    """Polygons and lines in the frames of these sources, by the same names."""
    max_streams: int = 4
    """Streams that may run at once; the next one gets 429."""
    allow_urls: tuple[str, ...] = ()
    """Prefixes such as `https://host/folder/`: images there may be sent as a URL."""
    demo: bool = False
    """Whether `openvocab.server._run.run` serves the demo at `/`. The demo asks for the token as its
    password, so the bearer token is only checked on the paths of the API."""

    def __post_init__(self) -> None:
        """Normalise and validate.

        Raises:
            ConfigError: the token or an origin is invalid, or zones are set for an unknown source
                or for one that is a still image.
        """
        token = self.token.strip()  # read from a file, it ends with a line break
        if (self.token and not token) or not token.isprintable():
            raise ConfigError(
                "The token is blank or contains control characters; use a printable one."
            )
        object.__setattr__(self, "token", token)
        hosts = tuple(host.strip("[]").lower() for host in self.hosts)
        origins = tuple(origin.rstrip("/").lower() for origin in self.origins)
        object.__setattr__(self, "hosts", hosts)
        object.__setattr__(self, "origins", origins)
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ConfigError(f"{origin!r} is not a valid origin; use https://HOST[:PORT].")
        for name in self.zones:
            if name not in self.sources:
                raise ConfigError(f"Zones are set for the unknown source {name!r}; add the source.")
            if is_still(self.sources[name]):
                raise ConfigError(
                    f"The source {name!r} is a still image; set zones for a video or camera only."
                )
