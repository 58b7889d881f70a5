"""Labelled pictures, whatever file they came in."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from openvocab import images
from openvocab.errors import DatasetError
from openvocab.protocols import Boxes, Image

__all__ = ["Dataset", "Photo"]


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """A picture and the M boxes that people have drawn in it."""

    id: int
    """COCO's own, or the place in the dataset."""
    path: Path
    size_wh: tuple[int, int]
    xyxy: Boxes
    """`(M, 4)` pixels."""
    class_ids: NDArray[np.intp]
    """`(M,)` places in the dataset's classes."""
    crowd: NDArray[np.bool_]
    """`(M,)` one box around many: neither to be found nor wrong to find."""
    areas: NDArray[np.float64]
    """`(M,)` square pixels, of the outline where there is one."""
    absent: frozenset[int] | None = None
    """Classes known not to be there; None: all that are not labelled (LVIS looks for some only)."""
    not_exhaustive: frozenset[int] = frozenset()
    """Classes of which only some are labelled (LVIS): finding more is not wrong."""

    def load(self) -> Image:
        """The picture, BGR.

        Raises:
            ImageError: it cannot be read.
            DatasetError: it is of another size than its labels say.
        """
        picture = images.load(self.path)
        if picture.shape[1::-1] != self.size_wh:
            raise DatasetError(
                f"{self.path} is {picture.shape[1]}x{picture.shape[0]} pixels, its labels are for "
                f"{self.size_wh[0]}x{self.size_wh[1]}; use the pictures that were labelled."
            )
        return picture

    @property
    def boxes(self) -> int:
        """To be found."""
        return int((~self.crowd).sum())

    @property
    def labelled(self) -> frozenset[int]:
        """Classes that are there."""
        return frozenset(self.class_ids.tolist())


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Photos, and the classes they were labelled with."""

    name: str
    kind: str
    """`coco`, `lvis` or `yolo`."""
    classes: tuple[str, ...]
    photos: tuple[Photo, ...]
    sha256: str
    """Of the labels."""
    frequencies: tuple[str, ...] | None = None
    """Of each class, `r`are, `c`ommon or `f`requent (LVIS)."""

    def __len__(self) -> int:
        return len(self.photos)

    @property
    def boxes(self) -> int:
        """To be found."""
        return sum(photo.boxes for photo in self.photos)

    def only(self, photos: Sequence[Photo]) -> Self:
        """The same with other photos."""
        return replace(self, photos=tuple(photos))

    def part(self, which: str) -> Self:
        """`calibration` or `test`, the two halves by the photos' names; or `all`.

        Neighbours in a film, which are named alike, stay in one half.

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
