"""The five stages in order: propose, encode regions, encode classes, match, keep."""

import os
import threading
from collections.abc import Hashable, Mapping, Sequence
from copy import copy
from dataclasses import fields, replace
from typing import Any, Self

import numpy as np
import supervision as sv
from numpy.typing import NDArray

from openvocab.config import Preset, load
from openvocab.encoders.boxes import expand_boxes, reachable, shown
from openvocab.encoders.text_cache import LRUCache, TextFeatureCache
from openvocab.errors import ClassesError, ConfigError, ModelError
from openvocab.io import images as doors
from openvocab.networks import networks
from openvocab.scoring.class_head import Naming, RegionClassifier, Regions, Share
from openvocab.types import Boxes, Encoder, Features, Image, Proposals, Proposer
from openvocab.vocabulary.vocabulary import (
    Classes,
    Example,
    Vocabulary,
    class_thresholds,
    words_alone,
)

# Fields of the preset that the networks were loaded with.
AT_LOADING = {
    "detector", "encoder", "image_size", "tile_size", "proposal_threshold", "proposal_iou",
    "max_boxes", "trust_pickle",
}  # fmt: skip


SAME_LOOK = 0.9  # overlap above which two boxes are one region to the encoder: 4 % of boxes
LISTS = 8  # lists of classes whose comparison with the detector's names is remembered


class OpenVocabDetector:
    """A detector whose proposer finds boxes and whose encoder names them in the caller's words.

    A call leaves no state behind: classes are an argument, text features are cached by word, and
    many threads may share one detector with different classes. It cannot be pickled, so each
    process builds its own.
    """

    def __init__(
        self, proposer: Proposer, encoder: Encoder, preset: str | os.PathLike[str] | Preset
    ) -> None:
        """Compose a detector from your own parts; `preset` gives the numbers, and loads no weights.

        Raises:
            ModelError: the proposer has no names, or the same name twice.
        """
        if not proposer.names or len(set(proposer.names)) < len(proposer.names):
            raise ModelError("The proposer needs names that differ, one at least; give it some.")
        self.proposer = proposer
        self.encoder = encoder
        self.preset = load(preset)
        self._words = TextFeatureCache(encoder, self.preset.templates)
        self._asked: LRUCache[Hashable, RegionClassifier] = LRUCache(LISTS)

    @classmethod
    def from_preset(
        cls, preset: str | os.PathLike[str] | Preset = "starter", *, device: str | None = None
    ) -> Self:
        """Load a bundled preset by name, or your own from a `.toml` file; never downloads.

        Args:
            preset: `starter`, `fast`, `balanced`, `accurate`, the path of a preset file, or a
                `Preset`.
            device: a torch device such as `cpu` or `cuda:0`; None uses CUDA where available.

        Raises:
            ConfigError: there is no such preset, or it has a bad value.
            WeightsNotFoundError: its weights are not on this machine; the message says how to
                pull them.
            ModelError: a weights file is damaged or of an unsupported kind.
        """
        numbers = load(preset)
        return cls(*networks(numbers, device), numbers)

    def tuned(self, **numbers: Any) -> Self:  # noqa: ANN401  a field of Preset is of any type
        """Return a detector with the same networks and other numbers, e.g. `fusion_exponent=0.5`.

        Raises:
            ConfigError: a number is unknown, out of range, or fixed once the networks are loaded.
        """
        known = {field.name for field in fields(Preset)}
        for key in numbers:
            if key not in known or key in AT_LOADING:
                raise ConfigError(f"{key} cannot be changed once loaded; load another preset.")
        other = copy(self)
        other.preset = replace(self.preset, **numbers)
        if other.preset.templates != self.preset.templates:
            other._words = TextFeatureCache(self.encoder, other.preset.templates)
        other._asked = LRUCache(LISTS)
        return other

    def vocabulary(
        self, classes: Classes | Vocabulary, negatives: Sequence[str] = ()
    ) -> Vocabulary:
        """Encode classes once, to save them or to pass them to many calls; checks a `Vocabulary`.

        Raises:
            ClassesError: the classes cannot be used (see `openvocab.vocabulary.parse`), or a
                `Vocabulary` is of another encoder or comes with further negatives.
        """
        if not isinstance(classes, Vocabulary):
            return Vocabulary.build(
                classes, negatives, self._words, self._encode_examples, self._words.fingerprint
            )
        if classes.fingerprint != self._words.fingerprint:
            raise ClassesError(
                "The vocabulary was made with another encoder or other templates; "
                "build it again with this detector's vocabulary()."
            )
        if negatives:
            raise ClassesError("A Vocabulary brings its own negatives; build it with these.")
        return classes

    def classifier(
        self, classes: Classes | Vocabulary, negatives: Sequence[str] = ()
    ) -> RegionClassifier:
        """Return what names boxes from their features; cached for words that were asked recently.

        Raises:
            ClassesError: see `vocabulary`.
        """
        key = words_alone(classes, negatives)
        known = self._asked.look_up([key]) if key is not None else {}
        if not known:
            bank = self.vocabulary(classes, negatives)
            own = self._words(self.proposer.names), self._words(self.preset.background)
            known = {
                key: RegionClassifier(bank, self.proposer.names, *own, self.encoder, self.preset)
            }
            if key is not None:
                self._asked.update(known)
        return known[key]

    def naming(
        self,
        classes: Classes | Vocabulary,
        *,
        negatives: Sequence[str] = (),
        score_threshold: float | None = None,
        thresholds: Mapping[str, float] | None = None,
    ) -> Naming:
        """Return what turns regions into detections, for many images with the same question.

        Raises:
            ClassesError: the classes, negatives or thresholds cannot be used.
        """
        classifier = self.classifier(classes, negatives)
        default = self.preset.score_threshold if score_threshold is None else score_threshold
        return Naming(classifier, class_thresholds(classifier.names, default, thresholds))

    def propose(
        self, images: Sequence[Image], score_thresholds: Sequence[float]
    ) -> list[Proposals]:
        """Find the boxes of each image that are worth encoding, whatever the classes will be.

        Args:
            images: BGR.
            score_thresholds: for each image, the lowest threshold that will be used; boxes that
                cannot reach it are left out.
        """
        return [
            each[reachable(each, lowest, self.preset)]
            for each, lowest in zip(self.proposer.propose(images), score_thresholds, strict=True)
        ]

    def see(self, images: Sequence[Image], score_thresholds: Sequence[float]) -> list[Regions]:
        """`propose`, then `encode` the regions of all images together."""
        found = self.propose(images, score_thresholds)
        features = self.encode(images, [each.xyxy for each in found])
        return list(map(Regions, found, features, score_thresholds))

    def encode(self, images: Sequence[Image], boxes: Sequence[Boxes]) -> list[Features]:
        """Encode the boxes of each BGR image as `(N_i, D)`, averaged over the context scales.

        A box that nearly coincides with an earlier one is not encoded again.
        """
        scales = self.preset.context_scales
        looks = [np.unique(shown(found, SAME_LOOK), return_inverse=True) for found in boxes]
        # (N, scales, 4): all scales of a box stay together
        seen = [
            np.stack([expand_boxes(found[first], scale) for scale in scales], axis=1).reshape(-1, 4)
            for found, (first, _) in zip(boxes, looks, strict=True)
        ]
        means = [
            rows.reshape(-1, len(scales), rows.shape[1]).mean(axis=1)
            for rows in self.encoder.encode_regions(images, seen)
        ]
        return [
            (rows / np.linalg.norm(rows, axis=1, keepdims=True))[of]
            for rows, (_, of) in zip(means, looks, strict=True)
        ]

    def detect(
        self,
        image: doors.ImageLike,
        classes: Classes | Vocabulary,
        *,
        negatives: Sequence[str] = (),
        score_threshold: float | None = None,
        thresholds: Mapping[str, float] | None = None,
    ) -> sv.Detections:
        """Find the caller's classes in one image.

        Args:
            image: path, bytes, PIL image, or array `(H, W, 3)` uint8 BGR; see
                `openvocab.io.load_image`.
            classes: names; or `{name: [synonym, ..., Path("example.jpg"), ...]}`; or a
                `Vocabulary`.
            negatives: look-alikes that compete with the classes and are never returned.
            score_threshold: lowest score returned, 0 to 1; None uses the preset's.
            thresholds: separate thresholds for some of the classes, by name.

        Returns:
            Detections of N boxes, best first: `xyxy` `(N, 4)` float32 in pixels; `confidence`
            `(N,)`, the fused score in [0, 1]; `class_id` `(N,)`, an index into `classes`; `mask`
            if the proposer gives masks; and in `data`, each `(N,)`: `class_name`, `objectness`,
            `similarity` (cosine), `posterior`, `margin` (over the next best class, or over "none
            of the classes"), and `proposal_label`.

        Raises:
            ImageError: the image cannot be read.
            ClassesError: the classes, negatives or thresholds cannot be used.
        """
        (detections,) = self.detect_batch(
            [image],
            classes,
            negatives=negatives,
            score_threshold=score_threshold,
            thresholds=thresholds,
        )
        return detections

    def detect_batch(
        self,
        images: Sequence[doors.ImageLike],
        classes: Classes | Vocabulary,
        *,
        negatives: Sequence[str] = (),
        score_threshold: float | None = None,
        thresholds: Mapping[str, float] | None = None,
    ) -> list[sv.Detections]:
        """Find the caller's classes in several images, whose regions are encoded together.

        Takes the arguments of `detect`, with a list of images.

        Returns:
            One `Detections` per image, in order; equal to `detect` of each (within 1e-4).

        Raises:
            ImageError: an image cannot be read (nothing is detected in the others, either).
            ClassesError: the classes, negatives or thresholds cannot be used.
        """
        naming = self.naming(
            classes, negatives=negatives, score_threshold=score_threshold, thresholds=thresholds
        )
        pictures = doors.load_images(images)
        return list(map(naming.detections, self.see(pictures, [naming.lowest] * len(pictures))))

    def regions(self, image: doors.ImageLike, *, score_threshold: float | None = None) -> Regions:
        """Look at an image once, so that `name` can answer many questions at the cost of the words.

        Args:
            image: as for `detect`.
            score_threshold: the lowest threshold that `name` will be given; boxes that cannot
                reach it are left out. None uses 0.1, or the preset's threshold if that is lower.

        Raises:
            ImageError: the image cannot be read.
        """
        usual = min(0.1, self.preset.score_threshold)
        lowest = usual if score_threshold is None else score_threshold
        class_thresholds([], lowest)  # refuses anything that is not a score
        (seen,) = self.see([doors.load_image(image)], [lowest])
        return seen

    def name(
        self,
        regions: Regions,
        classes: Classes | Vocabulary,
        *,
        negatives: Sequence[str] = (),
        score_threshold: float | None = None,
        thresholds: Mapping[str, float] | None = None,
    ) -> sv.Detections:
        """Return what `detect` would for the image of these regions, without looking at it again.

        Only new words and example pictures are encoded. Other arguments are as for `detect`.

        Raises:
            ClassesError: the classes, negatives or thresholds cannot be used, or a threshold is
                below the one that `regions` was given.
        """
        naming = self.naming(
            classes, negatives=negatives, score_threshold=score_threshold, thresholds=thresholds
        )
        if naming.lowest < np.float32(regions.lowest):  # as thresholds are rounded
            raise ClassesError(
                f"The regions are those for scores from {regions.lowest:g}, and {naming.lowest:g} "
                "is asked for; see the image with that score_threshold."
            )
        return naming.detections(regions)

    def explain(
        self,
        regions: Regions,
        box: NDArray[np.float32],
        classes: Classes | Vocabulary,
        *,
        negatives: Sequence[str] = (),
    ) -> list[Share]:
        """Explain the class of a box: the share of each class and of everything that competes.

        Args:
            regions: those given to `name`.
            box: `(4,)`, a row of the result's `xyxy`.
            classes: those given to `name`; the negatives of a `Vocabulary` are shown by number.
            negatives: those given to `name`.

        Raises:
            ClassesError: the classes or negatives cannot be used, or no region has this box.
        """
        xyxy, negatives = regions.proposals.xyxy, list(negatives)
        rows = (
            np.flatnonzero((xyxy == box).all(axis=1))
            if np.shape(box) == (4,)
            else np.zeros(0, np.intp)
        )
        if not len(rows):
            raise ClassesError("No region has this box; give a row of the result's xyxy.")
        first, brought = rows[:1], len(classes.negatives) if isinstance(classes, Vocabulary) else 0
        called = negatives or [f"negative {number + 1}" for number in range(brought)]
        return self.classifier(classes, negatives).explain(
            regions.proposals[first], regions.features[first], called
        )

    def _encode_examples(self, examples: Sequence[Example]) -> Features:
        pictures = [doors.load_image(example) for example in examples]
        whole = [
            np.array([[0, 0, picture.shape[1], picture.shape[0]]], np.float32)
            for picture in pictures
        ]
        return np.concatenate(self.encoder.encode_regions(pictures, whole))


_detectors: dict[tuple[object, ...], OpenVocabDetector] = {}
"""Keyed by the networks of a preset, not by its name: its file may change, or be elsewhere."""
_lock = threading.Lock()


def detect(
    image: doors.ImageLike,
    classes: Classes | Vocabulary,
    *,
    preset: str | os.PathLike[str] | Preset = "starter",
    negatives: Sequence[str] = (),
    score_threshold: float | None = None,
    thresholds: Mapping[str, float] | None = None,
) -> sv.Detections:
    """Find the caller's classes in one image, with a preset that is loaded once and kept.

    Never downloads. Arguments, result, shapes and errors are those of
    `OpenVocabDetector.detect`; `preset` is as for `OpenVocabDetector.from_preset`.

    Raises:
        OpenVocabError: one of its subclasses, as listed for those two methods.
    """
    return _detector(load(preset)).detect(
        image,
        classes,
        negatives=negatives,
        score_threshold=score_threshold,
        thresholds=thresholds,
    )


def _detector(preset: Preset) -> OpenVocabDetector:
    key = tuple(getattr(preset, name) for name in AT_LOADING)
    with _lock:
        known = _detectors.get(key)
        if known is None:
            known = OpenVocabDetector.from_preset(preset)
        elif known.preset != preset:  # other numbers, the same networks
            names = {field.name for field in fields(Preset)} - AT_LOADING
            known = known.tuned(**{name: getattr(preset, name) for name in names})
        _detectors[key] = known
        return known
