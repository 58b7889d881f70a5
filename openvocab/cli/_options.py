"""Options that several commands share, and how they are read."""

import errno
import os
import re
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openvocab._internal.files import read_lines, read_table
from openvocab.config import Preset, load_preset
from openvocab.errors import ClassesError, ConfigError
from openvocab.vocabulary._examples import Example
from openvocab.vocabulary._prompts import name_key, split_class_list

if TYPE_CHECKING:
    from openvocab.vocabulary import Vocabulary

_NUMBER = r"-?\d+(?:\.\d+)?"
_BOX = re.compile(rf"(.+)#({_NUMBER}(?:,{_NUMBER}){{3}})")

Classes = Annotated[
    str,
    typer.Option(
        "--classes",
        "-c",
        help='"bus, person", or a file: .txt with one class per line, .toml with synonyms and '
        "example images, or .npz of a saved Vocabulary.",
    ),
]
Examples = Annotated[
    list[str] | None,
    typer.Option(
        "--example",
        metavar="NAME=FILE[#BOX]",
        help='Example image of a class, "raccoon=crop.png", or a box of a picture, '
        '"raccoon=yard.jpg#40,60,180,220" (x1,y1,x2,y2 in pixels); repeat it for more. It adds '
        "to the class of that name in --classes, or makes one.",
    ),
]
PresetName = Annotated[
    str, typer.Option("--preset", "-p", help="Name of a preset, or its .toml file.")
]
Negatives = Annotated[
    str, typer.Option(help="Similar classes that compete with yours and are never returned.")
]
NegativeExamples = Annotated[
    list[str] | None,
    typer.Option(
        "--negative-example",
        metavar="FILE[#BOX]",
        help="Image, or box of one, that competes with your classes and is never returned; repeat "
        "it for more.",
    ),
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


def read_classes(text: str) -> "list[str] | dict[str, list[str | Path | Example]] | Vocabulary":
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


def read_class_options(
    classes: str, examples: Sequence[str] | None
) -> "list[str] | dict[str, list[str | Path | Example]] | Vocabulary":
    """Read --classes, and add the example images of --example.

    Raises:
        ClassesError: there is neither, a saved `Vocabulary` is to be extended, or one of the
            examples is not a name and a file.
    """
    if not examples:
        if not classes.strip():
            raise ClassesError("classes is empty; give --classes or --example.")
        return read_classes(classes)
    named = read_classes(classes) if classes.strip() else []
    if not isinstance(named, list | dict):
        raise ClassesError(f"{classes} is already encoded; leave --example out, or list its words.")
    parts: dict[str, list[str | Path | Example]]
    parts = {name: [*named[name]] if isinstance(named, dict) else [name] for name in named}
    names = {name_key(name): name for name in parts}
    for text in examples:
        name, example = _read_example(text)
        parts.setdefault(names.setdefault(name_key(name), name), []).append(example)
    return parts


def _read_example(text: str) -> tuple[str, Example]:
    """Name and picture of `NAME=FILE` or `NAME=FILE#x1,y1,x2,y2`.

    >>> _read_example("raccoon=yard.jpg#40,60,180,220")
    ('raccoon', Example('yard.jpg', box=(40, 60, 180, 220)))
    """
    name, separator, file = (part.strip() for part in text.partition("="))
    if not (name and separator and file):
        raise ClassesError(f'--example is {text!r}; give it as "NAME=FILE" or "NAME=FILE#BOX".')
    return name, _read_picture(file)


def _read_picture(text: str) -> Example:
    """`FILE` or `FILE#x1,y1,x2,y2`."""
    boxed = _BOX.fullmatch(text)
    if boxed is None or Path(text).is_file():  # a name may end like a box
        return Example(Path(text))
    return Example(Path(boxed[1]), [float(edge) for edge in boxed[2].split(",")])


def read_negative_options(negatives: str, examples: Sequence[str] | None) -> "list[str | Example]":
    """Names of --negatives and images of --negative-example."""
    return [*split_class_list(negatives), *map(_read_picture, examples or ())]


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
