"""What a detector sees in each photo, seen once and kept on disk: runs go on where they stopped."""

import hashlib
import io
import json
import time
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np

from openvocab import __version__
from openvocab.classifier import Regions
from openvocab.detector import OpenVocabDetector
from openvocab.evaluate.datasets import Photo
from openvocab.evaluate.provenance import detector_hash
from openvocab.files import write
from openvocab.protocols import Features, Proposals

__all__ = ["Seen", "SeenOnce"]

# Everything else of a preset is about names, which are given afterwards.
SEEING = (
    "proposal_threshold",
    "proposal_iou",
    "max_boxes",
    "image_size",
    "tile_size",
    "context_scales",
)


class Seen(NamedTuple):
    """One photo as two networks see it, before any word is known."""

    regions: Regions
    truth: Features
    """`(M, D)` of the labelled boxes."""
    propose_s: float
    """Seconds in the detector."""
    encode_s: float
    """Seconds in the encoder, of the proposals alone."""


class SeenOnce:
    """Sees each photo once, or reads what an earlier run with the same networks has kept."""

    def __init__(self, detector: OpenVocabDetector, folder: Path | None = None) -> None:
        """Keep in a folder, one file a photo (about 30 kB); None keeps nothing."""
        self._detector = detector
        preset = detector.preset
        key = {name: getattr(preset, name) for name in SEEING} | {
            "version": __version__,
            "detector": detector_hash(preset),
            "encoder": detector.encoder.fingerprint,
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self._folder = None if folder is None else folder / digest[:16]

    def __call__(self, photo: Photo) -> Seen:
        """A photo, without masks.

        Raises:
            ImageError: it cannot be read.
            DatasetError: it is of another size than its labels say.
            OpenVocabError: the folder cannot be written.
        """
        if self._folder is None:
            return self._see(photo)
        boxes = hashlib.sha256(photo.xyxy.tobytes()).hexdigest()[:12]
        file = self._folder / f"{photo.path.stem}-{boxes}.npz"
        kept = _read(file)
        if kept is None:
            kept = self._see(photo)
            write(file, _packed(kept))
        return kept

    def _see(self, photo: Photo) -> Seen:
        image = photo.load()
        begun = time.perf_counter()
        (found,) = self._detector.proposer.propose([image])
        proposed = time.perf_counter()
        (features,) = self._detector.encode([image], [found.xyxy])
        encoded = time.perf_counter()
        (truth,) = self._detector.encode([image], [photo.xyxy])
        plain = Proposals(found.xyxy, found.objectness, found.labels)
        return Seen(Regions(plain, features), truth, proposed - begun, encoded - proposed)


def _packed(seen: Seen) -> bytes:
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


def _read(file: Path) -> Seen | None:
    """None where there is no such file, or a damaged one."""
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as kept:
            labels = tuple(json.loads(str(kept["labels"])))
            found = Proposals(kept["xyxy"], kept["objectness"], labels)
            propose_s, encode_s = kept["seconds"].tolist()
            return Seen(Regions(found, kept["features"]), kept["truth"], propose_s, encode_s)
    except (OSError, ValueError, KeyError, EOFError, TypeError, BadZipFile):
        return None
