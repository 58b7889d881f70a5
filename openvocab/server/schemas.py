"""The requests and answers that go over the wire."""

import json
from typing import Annotated, Any, Literal, Self

import supervision as sv
from fastapi import UploadFile
from pydantic import BaseModel, ConfigDict, Field, Json, model_validator

from openvocab.errors import ClassesError
from openvocab.io.rows import detections_to_rows
from openvocab.server.streams import Stream
from openvocab.vocabulary.prompts import split_class_list

Name = Annotated[str, Field(max_length=500)]
Score = Annotated[float, Field(ge=0, le=1, strict=True)]  # else `false` is a score of 0
Names = Annotated[list[Name], Field(max_length=5000)]
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
"""A picture of one grey pixel, for examples that work as they are."""
KEYS = 16  # with more of them, a request is refused without a look at each


class _Strict(BaseModel):
    """A model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _few(cls, given: Any) -> Any:  # noqa: ANN401  whatever was sent
        if isinstance(given, dict) and len(given) > KEYS:
            raise ValueError("too many keys")
        return given


class Example(_Strict):
    """A picture of what is meant, cut out tightly."""

    image: Annotated[str, Field(description="As for `image` of a question.")]


Parts = Annotated[list[Name | Example], Field(max_length=100)]
Classes = Annotated[
    Annotated[list[Name], Field(min_length=1, max_length=5000)]
    | Annotated[dict[Name, Parts], Field(min_length=1, max_length=5000)],
    Field(description="Names, or for each name its synonyms and example pictures."),
]


class Words(_Strict):
    """What to look for."""

    classes: Classes
    negatives: Names = []


class Query(_Strict):
    """What to look for, and how sure it must be."""

    classes: Classes | None = None
    negatives: Names = []
    vocabulary: Annotated[
        str | None, Field(description="Name of a stored vocabulary, instead of classes.")
    ] = None
    score_threshold: Score | None = None
    thresholds: Annotated[dict[Name, Score], Field(max_length=5000)] = {}


class DetectRequest(Query):
    """A question about one picture."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"image": DOT, "classes": ["bus", "pedestrian"]}]}
    )

    image: Annotated[
        str, Field(description="JPEG, PNG, WebP, ... in base64, or an allowed address.")
    ]


class DetectForm(_Strict):
    """A question about one picture, as a form."""

    image: UploadFile
    classes: Annotated[
        list[str], Field(description='"bus, pedestrian", or JSON: {"car": ["car", "taxi"]}')
    ] = []
    negatives: Annotated[list[str], Field(description='"wall, sky"')] = []
    vocabulary: str | None = None
    score_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    thresholds: Annotated[Json[dict[Name, Score]], Field(description='JSON: {"bus": 0.5}')] = {}

    def question(self) -> Query:
        """The question without the picture.

        Raises:
            ValidationError: there are too many words, or some are too long.
            ClassesError: the classes begin like JSON but are not JSON.
        """
        return Query(
            classes=_listed(self.classes) or None,
            negatives=_listed(self.negatives),
            vocabulary=self.vocabulary,
            score_threshold=self.score_threshold,
            thresholds=self.thresholds,
        )


class DetectBatchRequest(Query):
    """A question about several pictures."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"images": [DOT, DOT], "classes": {"car": ["car", "taxi"]}}]
        }
    )

    images: Annotated[
        list[str], Field(min_length=1, description="As for `image`; the operator limits how many.")
    ]


class StreamRequest(Query):
    """A source to watch, and what to look for."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"source": "gate", "classes": ["truck", "pedestrian"]}]}
    )

    source: Annotated[Name, Field(description="One of `GET /v1/sources`.")]


class StreamState(BaseModel):
    """How a stream is doing."""

    number: int
    source: str
    state: Literal["runs", "lost", "ended", "failed"]
    error: str | None
    classes: list[str]
    figures: Annotated[
        dict[str, float], Field(description="Frames, dropped frames, frames per second, ...")
    ]

    @classmethod
    def of(cls, stream: Stream) -> Self:
        """The present state of a stream."""
        return cls(
            number=stream.number, source=stream.source, state=stream.state, error=stream.error,
            classes=stream.classes, figures=stream.figures(),
        )  # fmt: skip


class Detection(BaseModel):
    """One thing that was found."""

    class_name: str
    class_id: int
    confidence: float
    xyxy: tuple[float, float, float, float]
    objectness: float
    similarity: float
    posterior: float
    margin: float
    proposal_label: str


class DetectResponse(BaseModel):
    """What was found in one picture, best first."""

    width: int
    height: int
    detections: list[Detection]


class Info(BaseModel):
    """What a server runs, and what it accepts."""

    version: str
    preset: str
    detector: str
    encoder: str
    fingerprint: Annotated[str, Field(description="Of the encoder; a vocabulary fits one only.")]
    detector_labels: Annotated[list[str], Field(description="The detector's own names.")]
    score_threshold: Annotated[float, Field(description="Used if a request gives none.")]
    max_pictures: Annotated[int, Field(description="Per request.")]
    max_megapixels: float
    max_mb: int
    max_words: int
    timeout_s: float


class ErrorResponse(BaseModel):
    """Why a request was refused, in one line that ends with the remedy."""

    detail: str


def _listed(given: list[str]) -> Any:  # noqa: ANN401  JSON is of any form
    """Words of a form's field, which may be repeated."""
    if len(given) == 1 and given[0].lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(given[0])
        except (ValueError, RecursionError) as error:
            raise ClassesError(f"{given[0][:50]!r} begins as JSON and is none; mend it.") from error
    return [word for each in given for word in split_class_list(each)]


def answer(size_wh: tuple[int, int], found: sv.Detections) -> DetectResponse:
    """Convert detections to plain numbers."""
    listed = [Detection.model_validate(row) for row in detections_to_rows(found)]
    return DetectResponse(width=size_wh[0], height=size_wh[1], detections=listed)
