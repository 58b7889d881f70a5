"""What the stages exchange: the arrays, and the interfaces that give and take them."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import supervision as sv

__all__ = [
    "Boxes",
    "Encoder",
    "Features",
    "Frame",
    "Image",
    "Proposals",
    "Proposer",
    "Sink",
    "Source",
]

Image = NDArray[np.uint8]
"""One picture, `(H, W, 3)` uint8, BGR as in OpenCV and Ultralytics."""

Boxes = NDArray[np.float32]
"""`(N, 4)` float32, `x1, y1, x2, y2` in absolute pixels of the original image."""

Features = NDArray[np.float32]
"""`(N, D)` float32, rows of unit length."""


@dataclass(frozen=True, slots=True, eq=False)
class Proposals:
    """Class-agnostic boxes of one image, one per row; indexing selects the same rows everywhere.

    >>> two = Proposals(np.zeros((2, 4), np.float32), np.ones(2, np.float32), ("cat", "dog"))
    >>> two[np.array([False, True])].labels
    ('dog',)
    """

    xyxy: Boxes
    """`(N, 4)`, in absolute pixels of the original image."""
    objectness: NDArray[np.float32]
    """`(N,)`, in [0, 1]: how sure the detector is that there is a thing."""
    labels: tuple[str, ...]
    """`(N,)`, the detector's own name for each box."""
    masks: NDArray[np.bool_] | None = None
    """`(N, H, W)`, at the size of the image; or None."""

    def __post_init__(self) -> None:
        count = len(self.labels)
        if self.xyxy.shape != (count, 4) or self.objectness.shape != (count,):
            raise ValueError(
                f"{count} labels need xyxy ({count}, 4) and objectness ({count},), "
                f"got {self.xyxy.shape} and {self.objectness.shape}"
            )
        if self.masks is not None and len(self.masks) != count:
            raise ValueError(f"{count} boxes need {count} masks, got {len(self.masks)}")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, keep: NDArray[np.bool_] | NDArray[np.intp]) -> Self:
        rows = np.arange(len(self))[keep]
        return type(self)(
            self.xyxy[rows],
            self.objectness[rows],
            tuple(self.labels[row] for row in rows),
            None if self.masks is None else self.masks[rows],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One image of a video or camera."""

    index: int
    """Number of the frame in its source, from 0; dropped frames count as well."""
    time_s: float
    """Seconds: from the start for a video, by the clock (`time.time`) for a live source."""
    image: Image
    """`(H, W, 3)` uint8 BGR."""
    source: str = ""
    """Name of the source; each source of a stream needs its own."""
    captured_s: float = field(default_factory=time.monotonic)
    """When it was read, by the monotonic clock (`time.monotonic`)."""
    fps: float = 25.0
    """Frames per second of its source."""


@runtime_checkable
class Proposer(Protocol):
    """Finds where things are."""

    @property
    def names(self) -> tuple[str, ...]:
        """The detector's own names, each once; every label of a proposal is one of them."""
        ...

    def propose(self, images: Sequence[Image]) -> list[Proposals]:
        """Find boxes: one `Proposals` per image, in order, each sorted by falling objectness."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """Maps regions of images and prompts to unit vectors in the same space."""

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
