"""LabelledImage pictures, whatever format they came in."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from openvocab.errors import DatasetError
from openvocab.io import images
from openvocab.types import Boxes, Image


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """A picture, and the M boxes that people have drawn in it."""

    id: int
    """COCO's own id, or the index in the dataset."""
    path: Path
    size_wh: tuple[int, int]
    xyxy: Boxes
    """`(M, 4)`, in pixels."""
    class_ids: NDArray[np.intp]
    """`(M,)`, indices into the dataset's classes."""
    crowd: NDArray[np.bool_]
    """`(M,)`, whether a box is around many things: it need not be found, and is not wrong."""
    areas: NDArray[np.float64]
    """`(M,)`, in square pixels; of the outline if there is one."""
    absent: frozenset[int] | None = None
    """Classes known to be absent (LVIS checks only some); None: all that are not labelled."""
    not_exhaustive: frozenset[int] = frozenset()
    """Classes that are labelled only in part (LVIS): finding more of them is not wrong."""

    def load(self) -> Image:
        """Load the picture, BGR.

        Raises:
            ImageError: the picture cannot be read.
            DatasetError: its size is not the one that its labels state.
        """
        picture = images.load_image(self.path)
        if picture.shape[1::-1] != self.size_wh:
            raise DatasetError(
                f"{self.path} is {picture.shape[1]}x{picture.shape[0]} pixels, its labels are for "
                f"{self.size_wh[0]}x{self.size_wh[1]}; use the pictures that were labelled."
            )
        return picture

    @property
    def boxes(self) -> int:
        """Number of boxes to find."""
        return int((~self.crowd).sum())

    @property
    def labelled(self) -> frozenset[int]:
        """Classes that are labelled in it."""
        return frozenset(self.class_ids.tolist())


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Photos, and the classes with which they are labelled."""

    name: str
    kind: str
    """`coco`, `lvis` or `yolo`."""
    classes: tuple[str, ...]
    photos: tuple[Photo, ...]
    sha256: str
    """Hash of the labels."""
    frequencies: tuple[str, ...] | None = None
    """Frequency of each class: `r`are, `c`ommon or `f`requent (LVIS)."""

    def __len__(self) -> int:
        return len(self.photos)

    @property
    def boxes(self) -> int:
        """Number of boxes to find."""
        return sum(photo.boxes for photo in self.photos)

    def only(self, photos: Sequence[Photo]) -> Self:
        """The same dataset with other photos."""
        return replace(self, photos=tuple(photos))

    def part(self, which: str) -> Self:
        """Select `calibration` or `test`, two halves split by the photos' names, or `all`.

        Neighbouring frames of a film, which have similar names, stay in the same half.

        >>> data = Dataset("mine", "coco", ("bus",), (), "")
        >>> len(data.part("test"))
        0
        """
        order = sorted(self.photos, key=lambda photo: (photo.path.name, str(photo.path)))
        half = len(order) // 2
        parts = {"all": self.photos, "calibration": order[:half], "test": order[half:]}
        if which not in parts:
            raise DatasetError(f"There is no part {which!r}; use one of {', '.join(parts)}.")
        return self.only(parts[which])
