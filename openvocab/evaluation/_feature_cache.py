"""Encodes each image once and keeps the features on disk, so that a stopped run can continue."""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openvocab._internal.files import write_atomic
from openvocab.detector import OpenVocabDetector
from openvocab.errors import ImageError
from openvocab.evaluation._datasets import DatasetImage
from openvocab.evaluation._provenance import detector_hash
from openvocab.types import Boxes, EncodedRegions, Features, Proposals

_VERSION = 2  # to be raised when the same models and settings give other proposals or features


class CachedFeatures(NamedTuple):
    """The output of both networks for one image, whatever the classes."""

    xyxy: Boxes
    """`(N, 4)`, all proposals."""
    objectness: NDArray[np.float32]
    label_ids: NDArray[np.intp]
    label_confidence: NDArray[np.float32]
    features: Features
    """`(N, D)`, of the proposals."""
    ground_truth: Features
    """`(M, D)`, of the labelled boxes."""
    seconds: NDArray[np.float64]
    """In the detector; and in the encoder for the proposals that can reach the preset's threshold,
    as `detect` encodes them. Accuracy is measured on all proposals."""

    @property
    def regions(self) -> EncodedRegions:
        """The proposals with their features."""
        proposals = Proposals(
            self.xyxy,
            self.objectness,
            self.label_ids,
            label_confidence=self.label_confidence,
        )
        return EncodedRegions(proposals, self.features)


class ArrayStore:
    """Arrays of images on disk, one file per image; a damaged file counts as missing."""

    def __init__(self, folder: Path | None, key: Mapping[str, object]) -> None:
        """Prepare a store; nothing is read yet.

        Args:
            folder: holds a folder for each key; None stores nothing.
            key: says how the arrays were made; JSON.
        """
        self._folder = None if folder is None else folder / _digest(json.dumps(key))

    def get(self, image: DatasetImage) -> dict[str, Any] | None:
        """The arrays of an image; None if there are none.

        Raises:
            ImageError: the image cannot be opened.
        """
        return None if self._folder is None else _read(self._file(self._folder, image))

    def put(self, image: DatasetImage, arrays: Mapping[str, Any]) -> None:
        """Write the arrays of an image.

        Raises:
            ImageError: the image cannot be opened.
            OpenVocabError: the folder cannot be written to.
        """
        if self._folder is not None:
            buffer = io.BytesIO()
            np.savez(buffer, **arrays)
            write_atomic(self._file(self._folder, image), buffer.getvalue())

    @staticmethod
    def _file(folder: Path, image: DatasetImage) -> Path:
        """Another file if the image changed, or its labelled boxes."""
        try:
            stat = image.path.stat()
        except OSError as error:
            raise ImageError(f"{image.path} cannot be opened ({error.strerror}).") from error
        identity = f"{image.path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
        return folder / f"{_digest(identity + image.xyxy.tobytes().hex())}.npz"


class FeatureCache:
    """Encodes images, or reads the features that an earlier run with the same networks wrote."""

    def __init__(self, detector: OpenVocabDetector, folder: Path | None = None) -> None:
        """Prepare a cache; nothing is read yet.

        Args:
            detector: encodes the images. Its preset identifies its weights, so detectors that were
                composed by hand need separate folders.
            folder: one file per image, with 2 kB per box for features of 512 numbers, about 300 kB
                in all; None writes nothing.
        """
        self._detector = detector
        preset = detector.preset
        key = asdict(preset.proposals) | {
            "version": _VERSION,
            "detector": detector_hash(preset),
            "encoder": detector.encoder.fingerprint,
        }
        self.folder, self.key = folder, key
        self._store = ArrayStore(folder, key)

    def __call__(self, image: DatasetImage) -> CachedFeatures:
        """Encode an image, or read its features.

        Raises:
            ImageError: the image cannot be read.
            DatasetError: its size differs from the size in the labels.
            OpenVocabError: the folder cannot be written to.
        """
        arrays = self._store.get(image)
        if arrays is not None:
            return CachedFeatures(**arrays)
        cached = self._encode(image)
        self._store.put(image, cached._asdict())
        return cached

    def _encode(self, image: DatasetImage) -> CachedFeatures:
        pixels = image.load()
        started = perf_counter()
        (proposals,) = self._detector.propose([pixels], [0.0])
        threshold = self._detector.preset.scoring.score_threshold
        count = len(self._detector.prefilter(proposals, threshold))  # the first rows: best first
        proposed = perf_counter()
        (likely,) = self._detector.encode([pixels], [proposals[:count]])
        encoded = perf_counter()
        zeros = np.zeros(len(image.xyxy), np.intp)
        labelled = Proposals(image.xyxy, zeros.astype(np.float32), zeros)
        others, ground_truth = self._detector.encode([pixels] * 2, [proposals[count:], labelled])
        return CachedFeatures(
            proposals.xyxy,
            proposals.objectness,
            proposals.label_ids,
            proposals.label_confidence,
            np.concatenate([likely.features, others.features]),
            ground_truth.features,
            np.array([proposed - started, encoded - proposed]),
        )


def iter_readable(
    cache: FeatureCache, images: Iterable[DatasetImage], errors: list[str]
) -> Iterator[tuple[DatasetImage, CachedFeatures]]:
    """Yield images with their features; for unreadable ones, the message goes into `errors`."""
    for image in images:
        try:
            yield image, cache(image)
        except ImageError as error:
            errors.append(str(error))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


def _read(file: Path) -> dict[str, Any] | None:
    """Read arrays; None if the file is missing or damaged."""
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception:  # noqa: BLE001  NumPy and zipfile raise a dozen things on a damaged file
        return None
