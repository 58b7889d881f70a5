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
from openvocab.io._folders import writing_to
from openvocab.io._images import SUFFIXES, find_full_paths, load_image
from openvocab.io._rows import detections_to_rows
from openvocab.types import Image
from openvocab.vocabulary import Classes, Vocabulary

EDGES = ("x1", "y1", "x2", "y2")
SCORES = ("confidence", "objectness", "similarity", "posterior", "margin")
DETECTION = {"class_name": pa.string(), "class_id": pa.int32()}
DETECTION |= dict.fromkeys((*EDGES, *SCORES), pa.float32()) | {"proposal_label": pa.string()}
IMAGE = {"path": pa.string(), "width": pa.int32(), "height": pa.int32(), "error": pa.string()}
SCHEMA = pa.schema(IMAGE | {"detections": pa.list_(pa.struct(DETECTION))})
"""One row per file; `error` is null if it could be read."""

SUFFIX = ".parquet"
QUERY = b"openvocab"  # in a part's metadata: the classes, preset etc. that it was made with
CHUNK = 64  # files per part, which are redone if a worker dies
BATCH = 8  # images in memory at once


class StoragePath(NamedTuple):
    """A folder on this machine or in a bucket; can be sent to another process."""

    system: fs.FileSystem
    path: str


class Chunk(NamedTuple):
    """The files of one part, whose name identifies them."""

    name: str
    paths: tuple[str, ...]


def storage_path(address: str) -> StoragePath:
    """Parse a folder, or the address of a bucket that pyarrow supports (s3://, gs://, ...).

    Raises:
        OpenVocabError: the address is of another kind.
    """
    if "://" not in address:
        return StoragePath(fs.LocalFileSystem(), str(Path(address).resolve()))
    try:
        return StoragePath(*fs.FileSystem.from_uri(address))
    except (pa.ArrowInvalid, OSError) as error:
        raise OpenVocabError(
            f"{address} is neither a folder nor a bucket ({error}); check the address."
        ) from error


def find(source: str) -> tuple[fs.FileSystem, list[str]]:
    """Find the images of a folder, a glob or a bucket, in alphabetical order.

    Raises:
        ImageError: there are none, or Parquet cannot store a file's name.
        OpenVocabError: the bucket cannot be listed.
    """
    if "://" in source:
        system, folder = storage_path(source)
        files = _list(fs.FileSelector(folder, recursive=True), system)
        paths = [path for path in files if Path(path).suffix.lower() in SUFFIXES]
    else:
        system, paths = fs.LocalFileSystem(), list(find_full_paths([source]))
    if not paths:
        raise ImageError(f"{source} holds no images; check the address.")
    for path in paths:
        if path != path.encode(errors="replace").decode():
            raise ImageError(f"The name of {path} is not UTF-8; rename the file.")
    return system, sorted(paths)


def chunks(paths: Sequence[str], size: int = CHUNK) -> list[Chunk]:
    """Split the files into chunks, in order.

    >>> [len(chunk.paths) for chunk in chunks(["a", "b", "c"], 2)]
    [2, 1]
    """
    groups = [tuple(paths[start : start + size]) for start in range(0, len(paths), size)]
    return [
        Chunk(hashlib.sha256("\n".join(group).encode()).hexdigest()[:16], group) for group in groups
    ]


def query(arguments: Mapping[str, Any]) -> str:
    """The arguments of `OpenVocabStage` that decide the results, as JSON; recorded in each part."""
    names = ("classes", "negatives", "score_threshold")
    preset = dataclasses.asdict(load_preset(arguments["preset"]))
    recorded = {name: arguments.get(name) for name in names} | {"preset": preset}
    return json.dumps(recorded, default=_identify)


def finished(out: StoragePath, expected_query: str, paths: Sequence[str]) -> dict[str, str | None]:
    """Those of the files that are in the existing parts: path and error.

    Raises:
        OpenVocabError: a part cannot be read, or was made by another query.
    """
    errors: dict[str, str | None] = {}
    for part in _parts(out):
        try:
            table = pq.read_table(part, filesystem=out.system, columns=["path", "error"])
        except (OSError, pa.ArrowException) as error:
            raise OpenVocabError(f"{part} cannot be read ({error}); delete it.") from error
        if (table.schema.metadata or {}).get(QUERY, b"").decode() != expected_query:
            raise OpenVocabError(
                f"{out.path} holds results for other classes or another preset; "
                "choose another folder."
            )
        errors |= dict(zip(table["path"].to_pylist(), table["error"].to_pylist(), strict=True))
    return {path: errors[path] for path in paths if path in errors}


def drop_recovered(
    out: StoragePath, system: fs.FileSystem, errors: Mapping[str, str | None]
) -> dict[str, str | None]:
    """The finished files, after removing from their parts those that have become readable."""
    failed = [path for path, error in errors.items() if error]
    with ThreadPoolExecutor(BATCH) as pool:
        images = pool.map(lambda path: _read(system, path), failed)
        recovered = {
            path for path, image in zip(failed, images, strict=True) if not isinstance(image, str)
        }
    for part in _parts(out) if recovered else ():
        table = pq.read_table(part, filesystem=out.system)
        keep = [path not in recovered for path in table["path"].to_pylist()]
        if not all(keep):
            save(out, Path(part).stem, table.filter(pa.array(keep)))
    return {path: error for path, error in errors.items() if path not in recovered}


def detect_table(
    detector: OpenVocabDetector,
    vocabulary: Vocabulary,
    system: fs.FileSystem,
    paths: Sequence[str],
    score_threshold: float | None = None,
) -> pa.Table:
    """One row per file, in order, by `SCHEMA`; a file that cannot be read has an error."""
    rows: list[dict[str, Any]] = []
    for start in range(0, len(paths), BATCH):
        images: list[Image] = []
        batch: list[dict[str, Any]] = []
        for path in paths[start : start + BATCH]:
            image = _read(system, path)
            if isinstance(image, str):
                batch.append({"path": path, "error": image, "detections": []})
            else:
                images.append(image)
                batch.append({"path": path, "width": image.shape[1], "height": image.shape[0]})
        results = (
            detector.detect_batch(images, vocabulary, score_threshold=score_threshold)
            if images
            else []
        )
        readable = [row for row in batch if "error" not in row]
        for row, detections in zip(readable, results, strict=True):
            row["detections"] = list(_detection_rows(detections))
        rows += batch
    return pa.Table.from_pylist(rows, SCHEMA)


def save(out: StoragePath, name: str, table: pa.Table) -> None:
    """Write a part, either whole or not at all.

    Raises:
        OpenVocabError: the folder cannot be written to.
    """
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    part = f"{out.path}/.{uuid.uuid4().hex}.part"
    with writing_to(out.path):
        out.system.create_dir(out.path)
        with out.system.open_output_stream(part) as stream:
            stream.write(buffer.getvalue())
        out.system.move(part, f"{out.path}/{name}{SUFFIX}")


class OpenVocabStage:
    """For `dataset.map_batches(OpenVocabStage, fn_constructor_kwargs={"classes": [...]}, ...)`.

    Takes a column `path`, and returns rows of `SCHEMA`; needs `batch_format="pyarrow"`. The
    models are loaded once per worker. Source: Ray Data's pattern of a class as a stage.
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
        """Load the models, in the worker.

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
        self._vocabulary = self._detector.vocabulary(classes, negatives)
        self._threshold = score_threshold
        self._system = system or fs.LocalFileSystem()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Turn rows with a `path` into rows with `detections`."""
        paths = table["path"].to_pylist()
        return detect_table(self._detector, self._vocabulary, self._system, paths, self._threshold)


class Worker:
    """Does whole chunks and writes a part for each; a chunk is redone if its worker dies."""

    def __init__(self, out: StoragePath, arguments: dict[str, Any]) -> None:
        """Prepare; `arguments` are for `OpenVocabStage`, which is loaded for the first chunk."""
        self._out, self._arguments = out, arguments
        self._metadata = {QUERY: query(arguments).encode()}

    @cached_property
    def _stage(self) -> OpenVocabStage:
        return OpenVocabStage(**self._arguments)

    def do(self, chunk: Chunk) -> int:
        """Do a chunk; returns its number of files."""
        paths = pa.table({"path": pa.array(chunk.paths, pa.string())})
        save(self._out, chunk.name, self._stage(paths).replace_schema_metadata(self._metadata))
        return len(chunk.paths)


def _parts(out: StoragePath) -> list[str]:
    files = _list(fs.FileSelector(out.path, allow_not_found=True), out.system)
    return [path for path in files if path.endswith(SUFFIX)]


def _list(selector: fs.FileSelector, system: fs.FileSystem) -> list[str]:
    try:
        return [file.path for file in system.get_file_info(selector)]
    except OSError as error:
        raise OpenVocabError(
            f"{selector.base_dir} cannot be read ({error}); check the address, or choose another "
            "folder."
        ) from error


def _identify(value: object) -> str:
    """Identify an example image or vocabulary by its contents, anything else by its name."""
    if isinstance(value, Path) and value.is_file():
        return hashlib.sha256(value.read_bytes()).hexdigest()
    if isinstance(value, Vocabulary):
        features = value.features.tobytes() + value.class_ids.tobytes()
        return f"{value.names} {hashlib.sha256(features).hexdigest()}"
    return str(value)


def _read(system: fs.FileSystem, path: str) -> Image | str:
    """Read an image, or say why it cannot be read."""
    try:
        with system.open_input_stream(path) as stream:
            return load_image(stream.read(), name=path)
    except (ImageError, OSError) as error:
        return str(error)


def _detection_rows(detections: sv.Detections) -> Iterator[dict[str, Any]]:
    """Rows with rounded numbers, which then do not depend on the number of threads."""
    for row in detections_to_rows(detections):
        box = zip(EDGES, (round(edge, 1) for edge in row.pop("xyxy")), strict=True)
        yield row | dict(box) | {name: round(row[name], 3) for name in SCORES}
