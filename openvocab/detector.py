"""`OpenVocabDetector`, the one pipeline: propose, encode, score, select."""

import os
import threading
from collections.abc import Hashable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import Any, Self, Unpack

import numpy as np
import supervision as sv
from numpy.typing import NDArray

from openvocab._internal.lru_cache import LRUCache
from openvocab.config import ModelConfig, Preset, ProposalConfig, load_preset
from openvocab.encoders import load_encoder
from openvocab.encoders._boxes import example_box, expand_boxes
from openvocab.encoders._text_cache import TextFeatureCache
from openvocab.errors import ClassesError, ConfigError, ModelError
from openvocab.io._images import ImageLike, load_image, load_images
from openvocab.proposers import load_proposer
from openvocab.proposers._tiled import with_sizes
from openvocab.scoring import ClassHead, ImagePrototypes, LabelModel
from openvocab.scoring._log_odds import min_objectness
from openvocab.types import (
    Contribution,
    EncodedRegions,
    Encoder,
    Features,
    Image,
    NearMiss,
    Proposals,
    Proposer,
)
from openvocab.vocabulary import (
    Classes,
    ClassOptions,
    Example,
    NameOrImage,
    Vocabulary,
    parse_classes,
)
from openvocab.vocabulary._classes import cache_key, check_score, class_thresholds, parse_negatives
from openvocab.vocabulary._examples import as_example
from openvocab.vocabulary._prompts import name_key
from openvocab.weights._locate import locate_model

_MAX_CLASS_LISTS = 8  # whose ClassHead is cached
_MIN_ENCODED_SCORE = 0.1  # default of `encode_image`: few boxes below it are ever wanted


class OpenVocabDetector:
    """A proposer that finds boxes and an encoder that classifies them by the caller's names.

    A call leaves no state behind: classes are an argument, text features are cached by name, and
    many threads may share one detector with different classes. It cannot be pickled, so each
    process builds its own.
    """

    def __init__(
        self,
        proposer: Proposer,
        encoder: Encoder,
        preset: str | os.PathLike[str] | Preset,
        *,
        prototypes: ImagePrototypes | None = None,
    ) -> None:
        """Compose a detector from your own parts; no weights of `preset` are loaded.

        Args:
            proposer: finds boxes.
            encoder: encodes them.
            preset: its other settings.
            prototypes: what the proposer's labels look like to the encoder.

        Raises:
            ModelError: the proposer has no labels, or the same label twice.
            ConfigError: there is no such preset.
        """
        if not proposer.labels or len(set(proposer.labels)) < len(proposer.labels):
            raise ModelError("The proposer needs one or more labels, all different; add them.")
        self.proposer = proposer
        self.encoder = encoder
        self.preset = load_preset(preset)
        self.prototypes = prototypes
        self._text = TextFeatureCache(encoder, self.preset.models.templates)
        self._heads: LRUCache[Hashable, ClassHead] = LRUCache(_MAX_CLASS_LISTS)

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
        preset = load_preset(preset)
        encoder = load_encoder(preset, device)
        prototypes = load_prototypes(preset, encoder)
        return cls(load_proposer(preset, device), encoder, preset, prototypes=prototypes)

    def with_config(self, **scoring: Any) -> Self:  # noqa: ANN401  fields are of different types
        """A detector with the same models and another scoring, e.g. `fusion_exponent=0.5`.

        Args:
            scoring: fields of `ScoringConfig`.

        Raises:
            ConfigError: a field is unknown or out of range.
        """
        try:
            config = replace(self.preset.scoring, **scoring)
        except TypeError as error:
            raise ConfigError(f"{error}; use fields of ScoringConfig.") from error
        return self._with_preset(replace(self.preset, scoring=config))

    def with_sizes(self, imgsz: int | None = None, tile: int | None = None) -> Self:
        """A detector with the same models, and another input size of the proposer.

        Args:
            imgsz: longer side of its input, in pixels; None keeps the size.
            tile: side of tiles, in pixels of the image; None keeps the size, or none.

        Raises:
            ConfigError: a size is out of range.
            ModelError: the proposer cannot be run at this size.
        """
        if imgsz is None and tile is None:
            return self
        preset = self.preset.with_sizes(imgsz, tile)
        other = copy(self)
        other.preset, other.proposer = preset, with_sizes(self.proposer, preset.proposals)
        return other

    def _with_preset(self, preset: Preset) -> Self:
        other = copy(self)
        other.preset, other._heads = preset, LRUCache(_MAX_CLASS_LISTS)
        other.__dict__.pop("label_model", None)
        return other

    @cached_property
    def label_model(self) -> LabelModel:
        """What the proposer's labels say about any class."""
        scoring = self.preset.scoring
        return LabelModel.build(
            self.proposer.labels,
            self._text(self.proposer.labels),
            self._text(scoring.background),
            self.prototypes,
            prototype_weight=scoring.prototype_weight,
            use_lexicon=scoring.lexicon,
        )

    def detect(
        self,
        image: ImageLike,
        classes: Classes | Vocabulary,
        *,
        negatives: Sequence[NameOrImage] = (),
        score_threshold: float | None = None,
        thresholds: Mapping[str, float] | None = None,
        class_agnostic_nms: bool | None = None,
        imgsz: int | None = None,
        tile: int | None = None,
    ) -> sv.Detections:
        """Detect the classes in one image.

        Args:
            image: path, bytes, PIL image, or array `(H, W, 3)` uint8 BGR; see
                `openvocab.io.load_image`.
            classes: names; or `{name: [synonym, ..., Path("example.jpg"), ...]}`, where an example
                image may also be an array, a PIL image, or an `Example`, such as one box of a
                picture; or a `Vocabulary`.
            negatives: look-alikes that compete with the classes and are never returned; names and
                example images.
            score_threshold: lowest score returned, 0 to 1; None uses the preset's, of the class
                where it has one.
            thresholds: separate thresholds for some of the classes, by name.
            class_agnostic_nms: apply NMS across classes, not only within each class; None uses the
                preset's.
            imgsz: longer side of the detector's input, in pixels; None uses the preset's. A larger
                input finds smaller objects, and takes longer.
            tile: side of tiles that are detected in addition to the whole image, in pixels of the
                image; None uses the preset's.

        Returns:
            Detections of N boxes, best first: `xyxy` `(N, 4)` float32 in pixels; `confidence`
            `(N,)`, the fused score in [0, 1]; `class_id` `(N,)`, an index into `classes`; `mask`
            if the proposer gives masks; and in `data`, each `(N,)`: `class_name`, `objectness`,
            `similarity` (cosine), `posterior`, `margin` (over the next best class, or over "none
            of the classes"), `proposal_label`, and `region_id` (see `explain`).

        Raises:
            ImageError: the image cannot be read.
            ClassesError: the classes, negatives or thresholds cannot be used.
            ConfigError: a size is out of range.
            ModelError: the detector cannot be run at this size.
        """
        (detections,) = self.detect_batch(
            [image],
            classes,
            negatives=negatives,
            score_threshold=score_threshold,
            thresholds=thresholds,
            class_agnostic_nms=class_agnostic_nms,
            imgsz=imgsz,
            tile=tile,
        )
        return detections

    def detect_batch(
        self,
        images: Sequence[ImageLike],
        classes: Classes | Vocabulary,
        *,
        imgsz: int | None = None,
        tile: int | None = None,
        **options: Unpack[ClassOptions],
    ) -> list[sv.Detections]:
        """Detect the classes in several images, whose crops are encoded together.

        Takes the arguments of `detect`, with a list of images.

        Returns:
            One `Detections` per image, in order; equal to `detect` of each (within 1e-4).

        Raises:
            ImageError: an image cannot be read (nothing is detected in the others, either).
            ClassesError: the classes, negatives or thresholds cannot be used.
            ConfigError: a size is out of range.
            ModelError: the detector cannot be run at this size.
        """
        head, arrays = self.class_head(classes, **options), load_images(images)
        sized = self.with_sizes(imgsz, tile)
        regions = sized.encode_images(arrays, [head.min_objectness] * len(arrays))
        return [head.classify(image_regions) for image_regions in regions]

    def encode_images(
        self, images: Sequence[Image], min_objectness: Sequence[float]
    ) -> list[EncodedRegions]:
        """First and second stage, `propose` and `encode`, on BGR images."""
        regions = self.encode(images, self.propose(images, min_objectness))
        pairs = zip(regions, min_objectness, strict=True)
        return [image_regions._replace(min_objectness=lowest) for image_regions, lowest in pairs]

    def propose(self, images: Sequence[Image], min_objectness: Sequence[float]) -> list[Proposals]:
        """First stage: boxes of each BGR image, whatever the classes.

        Args:
            images: BGR.
            min_objectness: for each image, the lowest objectness that is wanted, such as
                `ClassHead.min_objectness`.
        """
        pairs = zip(self.proposer.propose(images), min_objectness, strict=True)
        return [proposals[self.prefilter(proposals, lowest)] for proposals, lowest in pairs]

    def prefilter(self, proposals: Proposals, min_objectness: float) -> NDArray[np.intp]:
        """Rows of boxes with at least this objectness, the best first."""
        rows = np.flatnonzero(proposals.objectness >= min_objectness)
        rows = rows[np.argsort(-proposals.objectness[rows], kind="stable")]
        return rows[: self.preset.proposals.max_regions]

    def encode(
        self, images: Sequence[Image], proposals: Sequence[Proposals]
    ) -> list[EncodedRegions]:
        """Second stage: features of the boxes of each BGR image, from crops with some context."""
        scale = self.preset.proposals.context_scale
        boxes = [expand_boxes(image_proposals.xyxy, scale) for image_proposals in proposals]
        features = self.encoder.encode_regions(images, boxes)
        return list(map(EncodedRegions, proposals, features))

    def class_head(
        self,
        classes: Classes | Vocabulary,
        *,
        negatives: Sequence[NameOrImage] = (),
        score_threshold: float | None = None,
        thresholds: Mapping[str, float] | None = None,
        class_agnostic_nms: bool | None = None,
    ) -> ClassHead:
        """Third and fourth stage, to score and select: for many images with the same classes.

        Takes the arguments of `detect`. Heads of recent class lists are cached.

        Raises:
            ClassesError: the classes, negatives or thresholds cannot be used.
        """
        key: Hashable
        if isinstance(classes, Vocabulary):
            key = self._check_vocabulary(classes, negatives)
        else:
            classes = parse_classes(classes)
            negatives = parse_negatives(negatives, classes)
            key = cache_key(classes, negatives)
        cached = self._heads.get_many([key]) if key is not None else {}
        if key in cached:
            head = cached[key]
        else:
            head = ClassHead.build(
                self.vocabulary(classes, negatives),
                self.label_model,
                self._text(self.preset.scoring.background),
                self.encoder,
                self.preset.scoring,
            )
            if key is not None:
                self._heads.put_many({key: head})
        if score_threshold is None:
            score_threshold = self.preset.scoring.score_threshold
            if thresholds is None or isinstance(thresholds, Mapping):
                thresholds = self._preset_thresholds(head.names) | dict(thresholds or {})
        return head.with_thresholds(
            class_thresholds(head.names, score_threshold, thresholds),
            class_agnostic_nms=class_agnostic_nms,
        )

    def _preset_thresholds(self, names: Sequence[str]) -> dict[str, float]:
        """The preset's thresholds of those classes that it has one for."""
        by_key = {name_key(name): value for name, value in self.preset.thresholds.items()}
        return {name: by_key[name_key(name)] for name in names if name_key(name) in by_key}

    def vocabulary(
        self, classes: Classes | Vocabulary, negatives: Sequence[NameOrImage] = ()
    ) -> Vocabulary:
        """Encode classes once, to save them or to pass them to many calls; checks a `Vocabulary`.

        Raises:
            ClassesError: the classes cannot be used (see `openvocab.vocabulary.parse_classes`), or
                a `Vocabulary` is of another encoder or comes with further negatives.
        """
        if isinstance(classes, Vocabulary):
            return self._check_vocabulary(classes, negatives)
        parts = parse_classes(classes)
        return Vocabulary.build(
            parts,
            parse_negatives(negatives, parts),
            self._text,
            self._encode_examples,
            self._text.fingerprint,
        )

    def encode_image(
        self,
        image: ImageLike,
        *,
        score_threshold: float | None = None,
        imgsz: int | None = None,
        tile: int | None = None,
    ) -> EncodedRegions:
        """Run both networks on an image once; `classify` then costs only new names.

        Args:
            image: as for `detect`.
            score_threshold: lowest threshold that `classify` will be given; boxes that cannot
                reach it are left out. None uses 0.1, or the preset's lowest threshold if that is
                lower.
            imgsz: as for `detect`.
            tile: as for `detect`.

        Raises:
            ImageError: the image cannot be read.
            ClassesError: the threshold is not a number from 0 to 1.
            ConfigError: a size is out of range.
            ModelError: the detector cannot be run at this size.
        """
        if score_threshold is None:
            own = self.preset.scoring.score_threshold, *self.preset.thresholds.values()
            score_threshold = min(_MIN_ENCODED_SCORE, *own)
        check_score("score_threshold", score_threshold)
        scoring = self.preset.scoring
        exponent = max(scoring.fusion_exponent, scoring.novel_fusion_exponent)
        lowest = min_objectness(score_threshold, exponent)
        sized = self.with_sizes(imgsz, tile)
        (regions,) = sized.encode_images([load_image(image)], [lowest])
        return regions

    def classify(
        self,
        regions: EncodedRegions,
        classes: Classes | Vocabulary,
        **options: Unpack[ClassOptions],
    ) -> sv.Detections:
        """What `detect` returns for the image of `encode_image`, without encoding it again.

        Only new names and example images are encoded. Other arguments are as for `detect`.

        Raises:
            ClassesError: the classes, negatives or thresholds cannot be used, or a threshold is
                below the one that `encode_image` was given.
        """
        return self._head_for(regions, classes, **options).classify(regions)

    def near_misses(
        self,
        regions: EncodedRegions,
        classes: Classes | Vocabulary,
        **options: Unpack[ClassOptions],
    ) -> list[NearMiss]:
        """What came closest to each class that `classify` does not find in the image.

        Runs no network, except for new names and example images; pass a `Vocabulary` to encode
        example images once for this and `classify`.

        Args:
            regions: from `encode_image`. Only its boxes are compared, so its `score_threshold`
                should be lower than the one of this call.
            classes: those given to `classify`.
            options: those given to `classify`.

        Returns:
            One `NearMiss` for each class without a detection, the best score first: the box with
            the best score for that class, or `xyxy=None` if no box was encoded.

        Raises:
            ClassesError: as for `classify`.
        """
        head = self._head_for(regions, classes, **options)
        return head.near_misses(regions, head.classify(regions))

    def explain(
        self,
        regions: EncodedRegions,
        region_id: int,
        classes: Classes | Vocabulary,
        *,
        negatives: Sequence[NameOrImage] = (),
    ) -> list[Contribution]:
        """Explain the class of a box: the share of each class and of everything that competes.

        Args:
            regions: those given to `classify`.
            region_id: of a detection, from `data["region_id"]`.
            classes: those given to `classify`; the negatives of a `Vocabulary` are numbered.
            negatives: those given to `classify`.

        Raises:
            ClassesError: the classes or negatives cannot be used, or there is no such region.
        """
        if not 0 <= region_id < len(regions.proposals):
            raise ClassesError(
                f"There is no region {region_id}; use a region_id of a result of classify."
            )
        negatives = list(negatives)
        head = self.class_head(classes, negatives=negatives)
        names = [name if isinstance(name, str) else str(as_example(name)) for name in negatives]
        if isinstance(classes, Vocabulary):
            names = [f"negative {row + 1}" for row in range(classes.negative_count)]
        row = np.array([region_id])
        region = EncodedRegions(regions.proposals[row], regions.features[row])
        return head.explain(region, names)

    def _head_for(
        self,
        regions: EncodedRegions,
        classes: Classes | Vocabulary,
        **options: Unpack[ClassOptions],
    ) -> ClassHead:
        """The class head of a call, if its thresholds are those of the regions or higher."""
        head = self.class_head(classes, **options)
        # Thresholds are float32.
        if head.min_objectness < np.float32(regions.min_objectness) * (1 - 1e-5):
            raise ClassesError(
                f"The image was encoded for higher scores than the threshold {head.min_score:g}; "
                "encode it with that score_threshold."
            )
        return head

    def _check_vocabulary(
        self, vocabulary: Vocabulary, negatives: Sequence[NameOrImage]
    ) -> Vocabulary:
        if vocabulary.fingerprint != self._text.fingerprint:
            raise ClassesError(
                "The vocabulary was made with another encoder or other templates; "
                "build it again with this detector's vocabulary()."
            )
        if len(negatives):
            raise ClassesError("A Vocabulary has its own negatives; build it with these.")
        return vocabulary

    def _encode_examples(self, examples: Sequence[Example]) -> Features:
        images = [load_image(each.image, name="the example image") for each in examples]
        scale = self.preset.proposals.context_scale
        boxes = [
            example_box(example, (image.shape[1], image.shape[0]), scale)
            for example, image in zip(examples, images, strict=True)
        ]
        return np.concatenate(self.encoder.encode_regions(images, boxes))


def load_prototypes(preset: Preset, encoder: Encoder) -> ImagePrototypes | None:
    """The image prototypes of a preset, if it has some.

    Raises:
        WeightsNotFoundError: they are not on this machine.
        ModelError: they are damaged, or were made with another encoder.
    """
    if preset.models.prototypes is None:
        return None
    prototypes = ImagePrototypes.load(locate_model(preset, preset.models.prototypes))
    if prototypes.fingerprint != encoder.fingerprint:
        raise ModelError(
            f"{preset.models.prototypes} was made with another encoder; make it again with "
            "`openvocab calibrate --unlabelled PHOTOS`, or leave prototypes out of the preset."
        )
    return prototypes


_detectors: dict[tuple[ModelConfig, ProposalConfig], OpenVocabDetector] = {}
"""Keyed by what is loaded, not by the preset's name: its file may change, or be elsewhere."""
_detectors_lock = threading.Lock()


def detect(
    image: ImageLike,
    classes: Classes | Vocabulary,
    *,
    preset: str | os.PathLike[str] | Preset = "starter",
    negatives: Sequence[NameOrImage] = (),
    score_threshold: float | None = None,
    thresholds: Mapping[str, float] | None = None,
    class_agnostic_nms: bool | None = None,
    imgsz: int | None = None,
    tile: int | None = None,
) -> sv.Detections:
    """Detect the classes in one image, with a preset that is loaded once and kept.

    Never downloads. Arguments, result, shapes and errors are those of
    `OpenVocabDetector.detect`; `preset` is as for `OpenVocabDetector.from_preset`.

    Raises:
        OpenVocabError: one of its subclasses, as listed for those two methods.
    """
    return _cached_detector(load_preset(preset)).detect(
        image,
        classes,
        negatives=negatives,
        score_threshold=score_threshold,
        thresholds=thresholds,
        class_agnostic_nms=class_agnostic_nms,
        imgsz=imgsz,
        tile=tile,
    )


def _cached_detector(preset: Preset) -> OpenVocabDetector:
    key = preset.models, preset.proposals
    with _detectors_lock:
        detector = _detectors.get(key)
        if detector is None:
            detector = OpenVocabDetector.from_preset(preset)
        elif detector.preset != preset:  # the same models with another scoring
            detector = detector._with_preset(preset)
        _detectors[key] = detector
        return detector
