"""What a detector sees in each photo, seen once and kept on disk: runs go on where they stopped."""

import hashlib
import io
import json
import time
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

import openvocab
from openvocab.classifier import Regions
from openvocab.detector import OpenVocabDetector
from openvocab.errors import ImageError
from openvocab.evaluate.datasets import Photo
from openvocab.evaluate.provenance import detector_hash
from openvocab.files import write
from openvocab.protocols import Features, Proposals
from openvocab.regions import reachable

__all__ = ["Seen", "SeenOnce"]

# Everything else of a preset is about names, which are given afterwards.
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


class Seen(NamedTuple):
    """One photo as two networks see it, before any word is known."""

    regions: Regions
    truth: Features
    """`(M, D)` of the labelled boxes."""
    propose_s: float
    """Seconds in the detector."""
    encode_s: float
    """Seconds in the encoder, of the proposals that may reach the preset's threshold, as `detect`
    encodes them; accuracy is measured on all of them."""


class SeenOnce:
    """Sees each photo once, or reads what an earlier run with the same networks has kept."""

    def __init__(self, detector: OpenVocabDetector, folder: Path | None = None) -> None:
        """Keep what is seen, or not.

        Args:
            detector: its preset says which weights it has: two detectors that were composed by
                hand need a folder each.
            folder: one file per photo, 2 kB per box that was seen with an encoder of 512
                numbers: some 300 kB; None keeps nothing.
        """
        self._detector = detector
        preset = detector.preset
        key = {name: getattr(preset, name) for name in SEEING} | {
            "code": _code(),
            "detector": detector_hash(preset),
            "encoder": detector.encoder.fingerprint,
        }
        self._folder = None if folder is None else folder / _digest(json.dumps(key))

    def __call__(self, photo: Photo) -> Seen:
        """A photo, without masks.

        Raises:
            ImageError: it cannot be read.
            DatasetError: it is of another size than its labels say.
            OpenVocabError: the folder cannot be written.
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
            write(file, _packed(kept))
        return kept

    def _see(self, photo: Photo) -> Seen:
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
        return Seen(regions, truth, proposed - begun, encoded - proposed)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


@cache
def _code() -> str:
    """Of all modules that have a part in seeing: other code may see otherwise."""
    package = Path(openvocab.__file__).parent
    files = sorted(file for place in CODE for file in package.glob(place))
    return _digest("".join(file.read_text(encoding="utf-8") for file in files))


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
            regions = Regions(found, kept["features"])
            return Seen(regions, kept["truth"], *kept["seconds"].tolist())
    except Exception:  # noqa: BLE001  NumPy and zipfile raise a dozen things on a damaged file
        return None
