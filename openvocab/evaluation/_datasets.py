"""Labelled images, whatever format they came in."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from openvocab.errors import DatasetError
from openvocab.io._images import load_image
from openvocab.types import Boxes, Image


@dataclass(frozen=True, slots=True, eq=False)
class DatasetImage:
    """An image file and its M labelled boxes."""

    id: int
    """COCO's own id, or the index in the dataset."""
    path: Path
    size_wh: tuple[int, int]
    xyxy: Boxes
    """`(M, 4)`, in pixels."""
    class_ids: NDArray[np.intp]
    """`(M,)`, indices into the dataset's classes."""
    crowd: NDArray[np.bool_]
    """`(M,)`, COCO's `iscrowd`: a box around a group, which is neither required nor wrong."""
    areas: NDArray[np.float64]
    """`(M,)`, in square pixels; of the segmentation if there is one."""
    absent: frozenset[int] | None = None
    """Classes verified to be absent (LVIS); None: all that are not labelled."""
    not_exhaustive: frozenset[int] = frozenset()
    """Classes of which only some objects are labelled (LVIS): more detections are not wrong."""

    def load(self) -> Image:
        """Load the image, BGR.

        Raises:
            ImageError: the image cannot be read.
            DatasetError: its size differs from the size in the labels.
        """
        image = load_image(self.path)
        if image.shape[1::-1] != self.size_wh:
            raise DatasetError(
                f"{self.path} is {image.shape[1]}x{image.shape[0]} pixels, its labels are for "
                f"{self.size_wh[0]}x{self.size_wh[1]}; use the images that were labelled."
            )
        return image

    @property
    def box_count(self) -> int:
        """Number of boxes without crowds."""
        return int((~self.crowd).sum())

    def grouped(self, groups: Sequence[frozenset[int]]) -> Self:
        """The image with other classes, each for the boxes of several; see `Dataset.grouped`."""
        rows = [np.flatnonzero(np.isin(self.class_ids, list(group))) for group in groups]
        indices = np.concatenate([*rows, np.empty(0, np.intp)]).astype(np.intp)
        absent = self.absent
        return replace(
            self,
            xyxy=self.xyxy[indices],
            class_ids=np.repeat(np.arange(len(groups)), list(map(len, rows))),
            crowd=self.crowd[indices],
            areas=self.areas[indices],
            absent=None if absent is None else _indices(group <= absent for group in groups),
            not_exhaustive=_indices(bool(group & self.not_exhaustive) for group in groups),
        )

    @property
    def present(self) -> frozenset[int]:
        """Classes with a box in the image."""
        return frozenset(self.class_ids.tolist())


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Labelled images and their classes."""

    name: str
    kind: str
    """`coco`, `lvis` or `yolo`."""
    classes: tuple[str, ...]
    images: tuple[DatasetImage, ...]
    sha256: str
    """Hash of the labels."""
    frequencies: tuple[str, ...] | None = None
    """Frequency of each class: `r`are, `c`ommon or `f`requent (LVIS)."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def box_count(self) -> int:
        """Number of boxes without crowds."""
        return sum(image.box_count for image in self.images)

    def with_images(self, images: Sequence[DatasetImage]) -> Self:
        """The same dataset with other images."""
        return replace(self, images=tuple(images))

    def grouped(self, groups: Mapping[str, Sequence[str]]) -> Self:
        """The same images with words as classes, each for the boxes of some of the classes.

        A box of two words counts for both, and one of no word for none.

        Args:
            groups: by word, names of classes.
        """
        ids = {name: class_id for class_id, name in enumerate(self.classes)}
        members = [frozenset(ids[name] for name in names) for names in groups.values()]
        images = tuple(image.grouped(members) for image in self.images)
        return replace(self, classes=tuple(groups), images=images, frequencies=None)

    def part(self, name: str) -> Self:
        """Select `calibration` or `test`, two halves split by file name, or `all`.

        Neighbouring frames of a video, which have similar names, stay in the same half.

        >>> dataset = Dataset("mine", "coco", ("bus",), (), "")
        >>> len(dataset.part("test"))
        0
        """
        order = sorted(self.images, key=lambda image: (image.path.name, str(image.path)))
        half = len(order) // 2
        parts = {"all": self.images, "calibration": order[:half], "test": order[half:]}
        if name not in parts:
            raise DatasetError(f"Unknown part {name!r}; use one of {', '.join(parts)}.")
        return self.with_images(parts[name])


def _indices(flags: Iterable[bool]) -> frozenset[int]:
    return frozenset(index for index, flag in enumerate(flags) if flag)
