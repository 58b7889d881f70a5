"""Detections of many files as Parquet, chunk by chunk; finished files are not done again."""

import dataclasses
import hashlib
import io
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import supervision as sv
from pyarrow import fs

from openvocab.config import Preset, load_preset
from openvocab.detector import OpenVocabDetector
from openvocab.errors import ImageError, OpenVocabError
from openvocab.io import images
from openvocab.io.labels import rows
from openvocab.types import Image
from openvocab.vocabulary import Classes, Vocabulary

EDGES = ("x1", "y1", "x2", "y2")
PARTS = ("objectness", "similarity", "posterior", "margin")
THING = pa.struct(
    [
        ("class_name", pa.string()),
        ("class_id", pa.int32()),
        *((name, pa.float32()) for name in (*EDGES, "confidence", *PARTS)),
        ("proposal_label", pa.string()),
    ]
)
SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("error", pa.string()),
        ("detections", pa.list_(THING)),
    ]
)
"""One row per file; `error` is null if it could be read."""

SUFFIX = ".parquet"
ASKED = b"openvocab"  # in a part's metadata: the question that it answers
CHUNK = 64  # files per part, which are redone if a worker dies
TOGETHER = 8  # images in memory at once


class StoragePath(NamedTuple):
    """A folder on this machine or in a bucket; can be sent to another process."""

    system: fs.FileSystem
    path: str


class Chunk(NamedTuple):
    """The files of one part, whose name identifies them."""

    name: str
    paths: tuple[str, ...]


def folder(address: str) -> StoragePath:
    """A place from a folder, or from a bucket address that pyarrow knows (s3://, gs://, ...).

    Raises:
        OpenVocabError: the address is of another kind.
    """
    if "://" not in address:
        return StoragePath(fs.LocalFileSystem(), str(Path(address).resolve()))
    try:
        return StoragePath(*fs.FileSystem.from_uri(address))
    except (pa.ArrowInvalid, OSError) as error:
        raise OpenVocabError(
            f"{address} is no folder and no bucket ({error}); check the address."
        ) from error


def find(source: str) -> tuple[fs.FileSystem, list[str]]:
    """Find the pictures of a folder, a glob or a bucket, in alphabetical order.

    Raises:
        ImageError: there are none.
        OpenVocabError: the bucket cannot be listed.
    """
    if "://" not in source:
        return fs.LocalFileSystem(), _named(sorted(images.located([source])))
    place = folder(source)
    try:
        listed = place.system.get_file_info(fs.FileSelector(place.path, recursive=True))
    except OSError as error:
        raise OpenVocabError(f"{source} cannot be listed ({error}); check the address.") from error
    found = sorted(
        each.path for each in listed if Path(each.path).suffix.lower() in images.SUFFIXES
    )
    if not found:
        raise ImageError(f"{source} holds no pictures; check the address.")
    return place.system, _named(found)


def _named(paths: list[str]) -> list[str]:
    """Check the paths, as Parquet takes no other names."""
    for path in paths:
        if path != path.encode(errors="replace").decode():
            raise ImageError(f"The name of {path} is no UTF-8; give the file another.")
    return paths


def chunks(paths: Sequence[str], size: int = CHUNK) -> list[Chunk]:
    """Split the files into chunks, in order.

    >>> [len(each.paths) for each in chunks(["a", "b", "c"], 2)]
    [2, 1]
    """
    groups = [tuple(paths[first : first + size]) for first in range(0, len(paths), size)]
    return [
        Chunk(hashlib.sha256("\n".join(some).encode()).hexdigest()[:16], some) for some in groups
    ]


def question(arguments: Mapping[str, Any]) -> str:
    """The question to `OpenVocabStage`, as recorded in each part: JSON of classes, preset etc."""
    asked = {name: arguments.get(name) for name in ("classes", "negatives", "score_threshold")}
    preset = dataclasses.asdict(load_preset(arguments["preset"]))
    return json.dumps(asked | {"preset": preset}, default=_told)


def done(out: StoragePath, asked: str) -> dict[str, str | None]:
    """The files in the existing parts: each path and its error.

    Raises:
        OpenVocabError: a part cannot be read, or answers another question.
    """
    known: dict[str, str | None] = {}
    for part in _parts(out):
        try:
            table = pq.read_table(part, filesystem=out.system, columns=["path", "error"])
        except (OSError, pa.ArrowException) as error:
            raise OpenVocabError(f"{part} cannot be read ({error}); delete it.") from error
        if (table.schema.metadata or {}).get(ASKED, b"").decode() != asked:
            raise OpenVocabError(
                f"{out.path} holds answers to other classes or another preset; choose another folder."
            )
        known |= dict(zip(table["path"].to_pylist(), table["error"].to_pylist(), strict=True))
    return known


def _parts(out: StoragePath) -> list[str]:
    try:
        listed = out.system.get_file_info(fs.FileSelector(out.path, allow_not_found=True))
    except OSError as error:
        raise OpenVocabError(
            f"{out.path} cannot be read ({error}); choose another folder."
        ) from error
    return [each.path for each in listed if each.path.endswith(SUFFIX)]


def drop_recovered(
    out: StoragePath, system: fs.FileSystem, known: Mapping[str, str | None]
) -> dict[str, str | None]:
    """The finished files, after removing from their parts those that have become readable."""
    failed = [path for path, why in known.items() if why]
    with ThreadPoolExecutor(TOGETHER) as pool:
        read = pool.map(lambda path: not isinstance(_read(system, path), str), failed)
        mended = {path for path, can in zip(failed, read, strict=True) if can}
    for part in _parts(out) if mended else ():
        paths = pq.read_table(part, filesystem=out.system, columns=["path"])["path"]
        stays = [path not in mended for path in paths.to_pylist()]
        if not all(stays):
            table = pq.read_table(part, filesystem=out.system)
            save(out, Path(part).stem, table.filter(pa.array(stays)))
    return {path: why for path, why in known.items() if path not in mended}


def detect_table(
    detector: OpenVocabDetector,
    vocabulary: Vocabulary,
    system: fs.FileSystem,
    paths: Sequence[str],
    score_threshold: float | None = None,
) -> pa.Table:
    """One row per file, in order, by `SCHEMA`; a file that cannot be read has an error."""
    listed: list[dict[str, Any]] = []
    for first in range(0, len(paths), TOGETHER):
        some = paths[first : first + TOGETHER]
        read = [_read(system, path) for path in some]
        pictures = [each for each in read if not isinstance(each, str)]
        found = iter(
            detector.detect_batch(pictures, vocabulary, score_threshold=score_threshold)
            if pictures
            else ()
        )
        listed += [
            {"path": path, "error": each, "detections": []}
            if isinstance(each, str)
            else {"path": path, "width": each.shape[1], "height": each.shape[0]}
            | {"detections": list(_things(next(found)))}
            for path, each in zip(some, read, strict=True)
        ]
    return pa.Table.from_pylist(listed, SCHEMA)


def save(out: StoragePath, name: str, table: pa.Table) -> None:
    """Write a part, either whole or not at all.

    Raises:
        OpenVocabError: the folder cannot be written to.
    """
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    part, target = f"{out.path}/.{uuid.uuid4().hex}.part", f"{out.path}/{name}{SUFFIX}"
    try:
        out.system.create_dir(out.path)
        with out.system.open_output_stream(part) as stream:
            stream.write(buffer.getvalue())
        out.system.move(part, target)
    except OSError as error:
        raise OpenVocabError(
            f"{out.path} cannot be written to ({error}); choose another folder."
        ) from error


class OpenVocabStage:
    """For `dataset.map_batches(OpenVocabStage, fn_constructor_kwargs={"classes": [...]}, ...)`.

    Takes a column `path`, and returns rows of `SCHEMA`; needs `batch_format="pyarrow"`. The
    networks are loaded once per worker. Source: Ray Data's pattern of a class as a stage.
    """

    def __init__(
        self,
        classes: Classes | Vocabulary,
        *,
        preset: str | Preset = "starter",
        negatives: Sequence[str] = (),
        score_threshold: float | None = None,
        device: str | None = None,
        system: fs.FileSystem | None = None,
    ) -> None:
        """Load the networks, in the worker.

        Args:
            classes: as for `OpenVocabDetector.detect`.
            preset: a name, the path of a file that every worker has, or a `Preset`.
            negatives: as for `OpenVocabDetector.detect`.
            score_threshold: as for `OpenVocabDetector.detect`.
            device: a torch device; None uses CUDA where available.
            system: file system of the paths; None means the worker's own machine.

        Raises:
            OpenVocabError: whatever `from_preset` and `vocabulary` raise.
        """
        self._detector = OpenVocabDetector.from_preset(load_preset(preset), device=device)
        self._bank = self._detector.vocabulary(classes, negatives)
        self._threshold = score_threshold
        self._system = system or fs.LocalFileSystem()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Turn rows with a `path` into rows with `detections`."""
        paths = table["path"].to_pylist()
        return detect_table(self._detector, self._bank, self._system, paths, self._threshold)


class Worker:
    """Does whole chunks and writes each; a chunk that it had not written when it died is redone."""

    def __init__(self, out: StoragePath, arguments: dict[str, Any]) -> None:
        """Prepare; `arguments` are for `OpenVocabStage`, which is loaded for the first chunk."""
        self._out, self._arguments = out, arguments
        self._asked = {ASKED: question(arguments).encode()}

    @cached_property
    def _stage(self) -> OpenVocabStage:
        return OpenVocabStage(**self._arguments)

    def do(self, chunk: Chunk) -> int:
        """Do a chunk; returns its number of files."""
        paths = pa.table({"path": pa.array(chunk.paths, pa.string())})
        save(self._out, chunk.name, self._stage(paths).replace_schema_metadata(self._asked))
        return len(chunk.paths)


def _told(part: object) -> str:
    """Identify an example picture or vocabulary by its contents, anything else by its name."""
    if isinstance(part, Path) and part.is_file():
        return hashlib.sha256(part.read_bytes()).hexdigest()
    if isinstance(part, Vocabulary):
        shown = part.features.tobytes() + part.negatives.tobytes()
        return f"{part.names} {hashlib.sha256(shown).hexdigest()}"
    return str(part)


def _read(system: fs.FileSystem, path: str) -> Image | str:
    """Read a picture, or say why it cannot be read."""
    try:
        with system.open_input_stream(path) as stream:
            return images.load(stream.read(), name=path)
    except (ImageError, OSError) as error:
        return str(error)


def _things(found: sv.Detections) -> Iterator[dict[str, Any]]:
    """Rows with rounded numbers, which then do not depend on the number of threads."""
    for row in rows(found):
        box = zip(EDGES, (round(edge, 1) for edge in row.pop("xyxy")), strict=True)
        short = {key: round(row[key], 3) for key in ("confidence", *PARTS)}
        yield {**row, **dict(box), **short}
