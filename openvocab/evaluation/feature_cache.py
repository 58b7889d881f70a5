"""Sees each photo once and keeps the result on disk, so stopped runs continue where they were."""

import hashlib
import io
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from openvocab._internal.files import write_atomic
from openvocab.detector import OpenVocabDetector
from openvocab.errors import ImageError
from openvocab.evaluation.datasets import Photo
from openvocab.evaluation.provenance import detector_hash
from openvocab.types import EncodedRegions, Features, Proposals

_VERSION = 1  # to be raised when the same models and settings give other proposals or features


class CachedFeatures(NamedTuple):
    """One photo as the two networks see it, before any word is known."""

    regions: EncodedRegions
    truth: Features
    """`(M, D)`, features of the labelled boxes."""
    propose_s: float
    """Seconds in the detector."""
    encode_s: float
    """Seconds in the encoder, for the proposals that can reach the preset's threshold, which
    `detect` would encode; accuracy is measured on all proposals."""


class FeatureCache:
    """Sees each photo once, or reads what an earlier run with the same networks kept."""

    def __init__(self, detector: OpenVocabDetector, folder: Path | None = None) -> None:
        """Prepare to see photos; nothing is read yet.

        Args:
            detector: detector that sees. Its preset identifies its weights, so detectors that were
                composed by hand need separate folders.
            folder: one file per photo, with 2 kB per box for an encoder with 512 numbers, some
                300 kB in all; None keeps nothing.
        """
        self._detector = detector
        preset = detector.preset
        key = asdict(preset.proposals) | {
            "version": _VERSION,
            "detector": detector_hash(preset),
            "encoder": detector.encoder.fingerprint,
        }
        self._folder = None if folder is None else folder / _digest(json.dumps(key))

    def __call__(self, photo: Photo) -> CachedFeatures:
        """See a photo, without masks.

        Raises:
            ImageError: the photo cannot be read.
            DatasetError: its size is not the one that its labels state.
            OpenVocabError: the folder cannot be written to.
        """
        if self._folder is None:
            return self._see(photo)
        try:
            state = photo.path.stat()
        except OSError as error:
            raise ImageError(f"{photo.path} cannot be opened ({error.strerror}).") from error
        identity = f"{photo.path.resolve()} {state.st_size} {state.st_mtime_ns}"
        name = _digest(identity + photo.xyxy.tobytes().hex())
        file = self._folder / f"{name}.npz"
        kept = _read(file)
        if kept is None:
            kept = self._see(photo)
            write_atomic(file, _packed(kept))
        return kept

    def _see(self, photo: Photo) -> CachedFeatures:
        image = photo.load()
        begun = time.perf_counter()
        (proposals,) = self._detector.propose([image], [0.0])
        # The best come first.
        threshold = self._detector.preset.scoring.score_threshold
        detected = len(self._detector.reachable(proposals, threshold))
        proposed = time.perf_counter()
        (best,) = self._detector.encode([image], [proposals[:detected]])
        encoded = time.perf_counter()
        (others,) = self._detector.encode([image], [proposals[detected:]])
        labelled = np.zeros(len(photo.xyxy), np.intp)
        truth = Proposals(photo.xyxy, labelled.astype(np.float32), labelled)
        (true_regions,) = self._detector.encode([image], [truth])
        plain = replace(proposals, masks=None)
        regions = EncodedRegions(plain, np.concatenate([best.features, others.features]))
        return CachedFeatures(regions, true_regions.features, proposed - begun, encoded - proposed)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


def _packed(seen: CachedFeatures) -> bytes:
    buffer = io.BytesIO()
    found = seen.regions.proposals
    np.savez(
        buffer,
        xyxy=found.xyxy,
        objectness=found.objectness,
        label_ids=found.label_ids,
        features=seen.regions.features,
        truth=seen.truth,
        seconds=np.array([seen.propose_s, seen.encode_s]),
    )
    return buffer.getvalue()


def _read(file: Path) -> CachedFeatures | None:
    """Read what was seen; None if the file is missing or damaged."""
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as kept:
            found = Proposals(kept["xyxy"], kept["objectness"], kept["label_ids"])
            regions = EncodedRegions(found, kept["features"])
            return CachedFeatures(regions, kept["truth"], *kept["seconds"].tolist())
    except Exception:  # noqa: BLE001  NumPy and zipfile raise a dozen things on a damaged file
        return None
