"""Options that several commands share, and how they are read."""

import errno
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openvocab._internal.files import read_lines, read_table
from openvocab.config import Preset, load_preset
from openvocab.errors import ClassesError, ConfigError
from openvocab.vocabulary._prompts import split_class_list

if TYPE_CHECKING:
    from openvocab.vocabulary import Vocabulary

Classes = Annotated[
    str,
    typer.Option(
        "--classes",
        "-c",
        help='"bus, person", or a file: .txt with one class per line, .toml with synonyms and '
        "example images, or .npz of a saved Vocabulary.",
    ),
]
PresetName = Annotated[
    str, typer.Option("--preset", "-p", help="Name of a preset, or its .toml file.")
]
Negatives = Annotated[
    str, typer.Option(help="Similar classes that compete with yours and are never returned.")
]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", "--conf", help="Lowest score, 0 to 1.  (default: the preset's)"),
]
Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 accepts other machines.")]
Port = Annotated[int, typer.Option(min=1, max=65535)]
ENDS = [
    number
    for name in ("SIGTERM", "SIGHUP")
    if (number := getattr(signal, name, None)) and signal.getsignal(number) != signal.SIG_IGN
]
"""Signals, besides Ctrl-C, that end a server; those already ignored (nohup) are left out."""
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda:0, ...  (default: CUDA where available)")
]
ImageSize = Annotated[
    int | None,
    typer.Option(min=32, max=8192, help="Detector input size, in pixels.  (default: the preset's)"),
]
TileSize = Annotated[
    int | None,
    typer.Option(
        metavar="PX",
        min=64,
        max=8192,
        help="Also detect in tiles of this size, for small objects.  (default: the preset's)",
    ),
]


def read_classes(text: str) -> "list[str] | dict[str, list[str | Path]] | Vocabulary":
    """Read classes from the words of the option, or from the file that it names."""
    file = Path(text)
    if file.suffix == ".npz":
        from openvocab.vocabulary import Vocabulary

        return Vocabulary.load(file)
    if file.suffix == ".txt":
        return read_lines(file)
    if file.suffix == ".toml":
        return {
            name: [_prompt(file, part) for part in (value if isinstance(value, list) else [value])]
            for name, value in read_table(file).items()
        }
    if file.is_file():
        raise ClassesError(f"{file} is not a .txt, .toml or .npz; give one, or words.")
    return split_class_list(text)


def _prompt(file: Path, value: Any) -> str | Path:  # noqa: ANN401  from a file: anything
    """A word, or `{ image = "logo.png" }` beside the file."""
    match value:
        case str():
            return value
        case {"image": str(image), **others} if not others:
            return file.parent / image
    raise ClassesError(
        f"{file} holds {str(value)[:50]!r}; "
        'give words and { image = "FILE" } as parts of a class.'
    )


def read_preset(name: str, image_size: int | None = None, tile_size: int | None = None) -> Preset:
    """Load a preset by name or file, with other sizes if they are not None."""
    return load_preset(name).with_sizes(image_size, tile_size)


def refuse_taken(host: str, port: int) -> None:
    """Check that the port is free, before anything is loaded or printed.

    Raises:
        ConfigError: the port is in use, or this machine has no such address.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"Port {port} is in use; choose another with --port.") from error
        number = error.errno or 0  # negative for a host name that cannot be resolved
        why = os.strerror(number) if number > 0 else error.strerror
        raise ConfigError(
            f"Nothing can be served at {host}:{port} ({why}); check --host and --port."
        ) from error


def has_display() -> bool:
    """Whether a window can be opened."""
    on_linux = sys.platform.startswith("linux")
    return not on_linux or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
