"""Sees each photo once and keeps the result on disk, so stopped runs continue where they were."""

import hashlib
import io
import json
import time
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

import openvocab
from openvocab._internal.files import write_atomic
from openvocab.detector import OpenVocabDetector
from openvocab.encoders.boxes import reachable
from openvocab.errors import ImageError
from openvocab.evaluation.datasets import Photo
from openvocab.evaluation.provenance import detector_hash
from openvocab.scoring.class_head import Regions
from openvocab.types import Features, Proposals

# Everything else in a preset concerns names, which are given afterwards.
SEEING = (
    "proposal_threshold",
    "proposal_iou",
    "max_boxes",
    "max_regions",
    "image_size",
    "tile_size",
    "context_scales",
)
CODE = (
    "detector.py", "images.py", "networks.py", "regions.py", "runtimes.py", "encoders/*.py",
    "proposers/*.py",
)  # fmt: skip


class CachedFeatures(NamedTuple):
    """One photo as the two networks see it, before any word is known."""

    regions: Regions
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
        key = {name: getattr(preset, name) for name in SEEING} | {
            "code": _code(),
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
        (found,) = self._detector.proposer.propose([image])
        preset = self._detector.preset
        found = found[reachable(found, 0, preset)]
        # The best come first.
        detected = len(reachable(found, preset.score_threshold, preset))
        proposed = time.perf_counter()
        (best,) = self._detector.encode([image], [found.xyxy[:detected]])
        encoded = time.perf_counter()
        (others,) = self._detector.encode([image], [found.xyxy[detected:]])
        (truth,) = self._detector.encode([image], [photo.xyxy])
        plain = Proposals(found.xyxy, found.objectness, found.labels)
        regions = Regions(plain, np.concatenate([best, others]))
        return CachedFeatures(regions, truth, proposed - begun, encoded - proposed)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


@cache
def _code() -> str:
    """Hash of all modules that take part in seeing: other code may see something else."""
    package = Path(openvocab.__file__).parent
    files = sorted(file for place in CODE for file in package.glob(place))
    return _digest("".join(file.read_text(encoding="utf-8") for file in files))


def _packed(seen: CachedFeatures) -> bytes:
    buffer = io.BytesIO()
    found = seen.regions.proposals
    np.savez(
        buffer,
        xyxy=found.xyxy,
        objectness=found.objectness,
        labels=np.array(json.dumps(found.labels)),
        features=seen.regions.features,
        truth=seen.truth,
        seconds=np.array([seen.propose_s, seen.encode_s]),
    )
    return buffer.getvalue()


def _read(file: Path) -> CachedFeatures | None:
    """Read what was seen; None if the file is missing or damaged."""
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as kept:
            labels = tuple(json.loads(str(kept["labels"])))
            found = Proposals(kept["xyxy"], kept["objectness"], labels)
            regions = Regions(found, kept["features"])
            return CachedFeatures(regions, kept["truth"], *kept["seconds"].tolist())
    except Exception:  # noqa: BLE001  NumPy and zipfile raise a dozen things on a damaged file
        return None
