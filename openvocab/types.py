"""Arrays and interfaces that the stages exchange."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import supervision as sv

__all__ = [
    "Boxes",
    "Contribution",
    "EncodedRegions",
    "Encoder",
    "Features",
    "Frame",
    "Image",
    "NearMiss",
    "Proposals",
    "Proposer",
    "Sink",
    "Source",
]

Image = NDArray[np.uint8]
"""`(H, W, 3)` uint8, BGR as in OpenCV and Ultralytics."""

Boxes = NDArray[np.float32]
"""`(N, 4)` float32, `x1, y1, x2, y2` in absolute pixels of the original image."""

Features = NDArray[np.float32]
"""`(N, D)` float32, rows of unit length."""


@dataclass(frozen=True, slots=True, eq=False)
class Proposals:
    """Class-agnostic boxes of one image; indexing selects the same rows of every field.

    >>> boxes = Proposals(np.zeros((2, 4), np.float32), np.ones(2, np.float32), np.array([4, 7]))
    >>> boxes[np.array([False, True])].label_ids
    array([7])
    """

    xyxy: Boxes
    """`(N, 4)`, in absolute pixels of the original image."""
    objectness: NDArray[np.float32]
    """`(N,)` in [0, 1], the detector's confidence that a box holds an object."""
    label_ids: NDArray[np.intp]
    """`(N,)`, the detector's label of each box, as an index into `Proposer.labels`."""
    masks: NDArray[np.bool_] | None = None
    """`(N, H, W)` at the size of the image, or None."""
    label_confidence: NDArray[np.float32] = None  # type: ignore[assignment]  # set in __post_init__
    """`(N,)` in [0, 1], how sure the detector is of the label: the objectness, where its score of
    the label is all that it gives; 0 for an object that no label fits."""

    def __post_init__(self) -> None:
        if self.label_confidence is None:
            object.__setattr__(self, "label_confidence", self.objectness)
        count = len(self.xyxy)
        shapes = [self.xyxy.shape, self.objectness.shape, np.shape(self.label_ids)]
        if shapes != [(count, 4), (count,), (count,)]:
            raise ValueError(
                "xyxy, objectness and label_ids must have shapes (N, 4), (N,) and (N,), "
                f"got {', '.join(map(str, shapes))}"
            )
        if self.masks is not None and len(self.masks) != count:
            raise ValueError(f"masks must have shape ({count}, H, W), got {self.masks.shape}")

    def __len__(self) -> int:
        return len(self.xyxy)

    def __getitem__(self, rows: NDArray[np.bool_] | NDArray[np.intp] | slice) -> Self:
        masks = None if self.masks is None else self.masks[rows]
        return type(self)(
            self.xyxy[rows],
            self.objectness[rows],
            self.label_ids[rows],
            masks,
            self.label_confidence[rows],
        )


class EncodedRegions(NamedTuple):
    """Proposals of one image and their features: all that is needed to classify them."""

    proposals: Proposals
    """N boxes."""
    features: Features
    """`(N, D)`, one unit row per box."""
    min_objectness: float = 0.0
    """Boxes with a lower objectness were not encoded."""


class Contribution(NamedTuple):
    """What one class or competitor contributes to the posterior of a box."""

    kind: str
    """`class`, `negative`, `background`, or `detector` (one of the detector's own labels)."""
    name: str
    """Name of the class, negative or label; `background` for all background prompts together."""
    share: float
    """Posterior of a class; for a competitor, its part of the softmax with the best class."""


class NearMiss(NamedTuple):
    """What came closest to a class that has no detection in an image.

    >>> print(NearMiss("telly", 0.2, 0.3, (12, 40, 220, 310), 4))
    telly: nothing above 0.30; closest 0.20 at 12,40,220,310
    """

    class_name: str
    score: float
    """Score of the best box for this class, 0 to 1; 0 if no box was encoded."""
    threshold: float
    """The lowest score of the class."""
    xyxy: tuple[float, float, float, float] | None = None
    """That box, in pixels of the image; None if no box was encoded."""
    region_id: int | None = None
    """Its row in the encoded regions, for `explain`."""
    box_class: str | None = None
    """The class that fits the box better, if there is one among the classes of the call."""

    def __str__(self) -> str:
        nothing = f"nothing above {self.threshold:.2f}"
        if self.xyxy is None:
            return f"{self.class_name}: {nothing}, and no box to compare"
        where = f"{self.score:.2f} at {','.join(f'{edge:.0f}' for edge in self.xyxy)}"
        reason = "" if self.box_class is None else f", where {self.box_class} fits better"
        if self.score >= self.threshold:  # not short of the threshold, but not the best
            return f"{self.class_name}: {where}{reason or ', which a better box overlaps'}"
        return f"{self.class_name}: {nothing}; closest {where}{reason}"


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One image of a stream."""

    index: int
    """Number of the frame in its source, from 0; dropped frames count as well."""
    time_s: float
    """Seconds: from the start of a video, or by the clock (`time.time`) for a live source."""
    image: Image
    """`(H, W, 3)` uint8 BGR."""
    source: str = ""
    """Name of the source; sources of one stream need different names."""
    captured_s: float = field(default_factory=time.monotonic)
    """Time of capture by the monotonic clock (`time.monotonic`)."""
    fps: float = 25.0
    """Frames per second of its source."""


@runtime_checkable
class Proposer(Protocol):
    """Finds class-agnostic boxes."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The detector's own labels, each once; `Proposals.label_ids` index into them."""
        ...

    def propose(self, images: Sequence[Image]) -> list[Proposals]:
        """Find boxes: one `Proposals` per image, in order, each sorted by falling objectness."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """Maps crops of images and prompts to unit vectors in the same space."""

    @property
    def logit_scale(self) -> float:
        """Factor on the cosine, already exponentiated (CLIP stores its logarithm)."""
        ...

    @property
    def logit_bias(self) -> float | None:
        """Bias of a sigmoid model (SigLIP); None for a softmax model (CLIP)."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifies weights and preprocessing; equal fingerprints give equal features."""
        ...

    def encode_regions(self, images: Sequence[Image], boxes: Sequence[Boxes]) -> list[Features]:
        """Encode the boxes `(N_i, 4)` of each image as features `(N_i, D)`; N_i may be 0.

        Parts of a box outside the image are ignored.
        """
        ...

    def encode_text(self, prompts: Sequence[str]) -> Features:
        """Encode K prompts as features `(K, D)`, in order, in one forward pass."""
        ...


@runtime_checkable
class Source(Protocol):
    """Yields frames of one or several videos or cameras, until it ends or is closed."""

    def __iter__(self) -> Iterator[Frame]: ...

    def close(self) -> None:
        """End the iteration and release everything; from any thread, any number of times."""
        ...


@runtime_checkable
class Sink(Protocol):
    """Takes frames with their detections."""

    def write(self, frame: Frame, detections: "sv.Detections") -> None:
        """Take one frame; frames come in the order of their source."""
        ...

    def close(self) -> None:
        """Finish writing."""
        ...
