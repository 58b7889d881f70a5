"""The JSON bodies of requests and responses."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, TypeAlias

import supervision as sv
from fastapi import UploadFile
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    Json,
    ValidationInfo,
    field_validator,
    model_validator,
)

from openvocab import types
from openvocab.io._rows import detections_to_rows, near_misses_to_rows
from openvocab.server._streams import Stream
from openvocab.types import Image
from openvocab.vocabulary._prompts import split_class_list

MAX_KEYS = 16  # of one JSON object with fixed keys
ONE_PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)
"""A valid image, for examples that work as they are."""

Word: TypeAlias = Annotated[str, Field(max_length=500)]
Score: TypeAlias = Annotated[float, Field(ge=0, le=1, strict=True)]  # else `false` is a score of 0
Edge: TypeAlias = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Negatives: TypeAlias = Annotated[list[Word], Field(max_length=5000)]


class _StrictModel(BaseModel):
    """A model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _limit_keys(cls, data: Any) -> Any:  # noqa: ANN401  any JSON
        # Two million unknown keys in 27 MB would block the event loop for 18 s, one error each.
        if isinstance(data, dict) and len(data) > MAX_KEYS:
            raise ValueError("too many keys")
        return data


class ExampleImage(_StrictModel):
    """A tight crop of an object of the class, or one box of a picture."""

    image: Annotated[str, Field(description="As `image` of a detection request.")]
    box: Annotated[
        tuple[Edge, Edge, Edge, Edge] | None,
        Field(description="x1, y1, x2, y2 of the object in pixels; without it, all of the image."),
    ] = None


Prompts: TypeAlias = Annotated[list[Word | ExampleImage], Field(max_length=100)]
ClassList: TypeAlias = Annotated[
    Annotated[list[Word], Field(min_length=1, max_length=5000)]
    | Annotated[dict[Word, Prompts], Field(min_length=1, max_length=5000)],
    Field(description="Class names, or for each class name its synonyms and example images."),
]


class VocabularyRequest(_StrictModel):
    """The classes of a vocabulary."""

    classes: ClassList
    negatives: Negatives = []


class Query(_StrictModel):
    """Classes to detect, and their thresholds."""

    classes: ClassList | None = None
    negatives: Negatives = []
    vocabulary: Annotated[
        str | None, Field(description="Name of a stored vocabulary, instead of classes.")
    ] = None
    score_threshold: Score | None = None
    thresholds: Annotated[dict[Word, Score], Field(max_length=5000)] = {}


def _example(**body: Any) -> ConfigDict:  # noqa: ANN401  any JSON
    return ConfigDict(json_schema_extra={"examples": [body]})


class DetectQuery(Query):
    """Classes to detect in images, at what size, and whether to say what came closest."""

    imgsz: Annotated[
        int | None,
        Field(ge=32, le=1280, description="Longer side of the detector's input, in pixels."),
    ] = None
    tile: Annotated[
        int | None,
        Field(
            ge=64, le=8192, description="Also detect in tiles of this side, in pixels of the image."
        ),
    ] = None
    near_misses: Annotated[
        bool,
        Field(strict=True, description="Also return what came closest to each class not found."),
    ] = False


class DetectRequest(DetectQuery):
    """Detect in one image."""

    model_config = _example(image=ONE_PIXEL, classes=["bus", "pedestrian"])

    image: Annotated[str, Field(description="JPEG, PNG, WebP, ... in base64, or an allowed URL.")]


class DetectBatchRequest(DetectQuery):
    """Detect in several images."""

    model_config = _example(images=[ONE_PIXEL] * 2, classes={"car": ["car", "taxi"]})

    images: Annotated[
        list[str], Field(min_length=1, description="As `image`; GET /v1/info has the maximum.")
    ]


class DetectForm(DetectQuery):
    """Detect in one image, sent as a form.

    `classes` and `negatives` are words separated by commas, repeated fields, or JSON.
    """

    image: UploadFile
    score_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    near_misses: bool = False
    thresholds: Annotated[Json[dict[Word, Score]], Field(description='JSON: {"bus": 0.5}')] = {}

    @field_validator("classes", "negatives", mode="before")
    @classmethod
    def _parse(cls, values: list[str], info: ValidationInfo) -> Any:  # noqa: ANN401  any JSON
        if len(values) == 1 and values[0].lstrip()[:1] in ("[", "{"):
            try:
                return json.loads(values[0])
            except (ValueError, RecursionError) as error:
                raise ValueError("invalid JSON; correct it, or separate words by commas") from error
        words = [word for value in values for word in split_class_list(value)]
        return words or cls.model_fields[str(info.field_name)].default  # of an empty form field


class StreamRequest(Query):
    """Start a stream."""

    model_config = _example(source="gate", classes=["truck", "pedestrian"])

    source: Annotated[Word, Field(description="One of `GET /v1/sources`.")]


class StreamState(BaseModel):
    """The state of a stream."""

    number: int
    source: str
    state: Literal["running", "lost", "ended", "failed"]
    error: str | None
    classes: list[str]
    metrics: Annotated[
        dict[str, float], Field(description="Frames, dropped frames, frames per second, ...")
    ]

    @classmethod
    def of(cls, stream: Stream) -> Self:
        """The current state of a stream."""
        return cls(
            number=stream.number, source=stream.source, state=stream.state, error=stream.error,
            classes=stream.classes, metrics=stream.metrics(),
        )  # fmt: skip


class Detection(BaseModel):
    """One detected object; `xyxy` in pixels, scores from 0 to 1."""

    class_name: str
    class_id: int
    confidence: float
    xyxy: tuple[float, float, float, float]
    objectness: float
    similarity: float
    posterior: float
    margin: float
    proposal_label: str


class NearMiss(BaseModel):
    """The best box for a class without a detection, among the boxes that were encoded."""

    class_name: str
    score: Annotated[float, Field(description="0 if no box was encoded.")]
    threshold: float
    xyxy: Annotated[
        tuple[float, float, float, float] | None,
        Field(description="Missing if no box was encoded."),
    ] = None
    box_class: Annotated[
        str | None, Field(description="The class that fits the box better, if there is one.")
    ] = None


class DetectResponse(BaseModel):
    """The detections in one image, highest confidence first."""

    width: int
    height: int
    detections: list[Detection]
    near_misses: Annotated[
        list[NearMiss] | None, Field(description="If the request has `near_misses`; best first.")
    ] = None


class Info(BaseModel):
    """The models and limits of a server."""

    version: str
    preset: str
    detector: str
    encoder: str
    fingerprint: Annotated[
        str, Field(description="Of the encoder; a saved vocabulary fits one encoder only.")
    ]
    detector_labels: Annotated[list[str], Field(description="The detector's own class names.")]
    score_threshold: Annotated[float, Field(description="Default of a request.")]
    max_images: Annotated[int, Field(description="Per request.")]
    max_megapixels: float
    max_mb: int
    max_words: int
    timeout_s: float


class ErrorResponse(BaseModel):
    """Why a request was refused, in one line that ends with the remedy."""

    detail: str


def to_response(
    image: Image, detections: sv.Detections, near_misses: Sequence[types.NearMiss] | None
) -> DetectResponse:
    """Convert the detections in an image, and what came closest, to plain numbers."""
    height, width = image.shape[:2]
    rows = None if near_misses is None else near_misses_to_rows(near_misses)
    return DetectResponse(
        width=width,
        height=height,
        detections=[Detection.model_validate(row) for row in detections_to_rows(detections)],
        near_misses=None if rows is None else [NearMiss.model_validate(row) for row in rows],
    )
