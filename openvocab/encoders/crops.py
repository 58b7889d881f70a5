"""Cuts boxes out of images, and resizes them to the input size of an image tower."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import log2

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from openvocab.encoders.boxes import clip_to_pixels
from openvocab.types import Boxes, Image

GREY = 114
# Before resizing, a box is halved as long as it stays at least this many times the tower's size.
# Pillow's `reducing_gap` does the same, and finds no visible difference from 3 on.
GAP = 2


@dataclass(frozen=True, slots=True)
class Cropper:
    """Regions `(N, size, size, 3)` uint8 BGR of boxes of images, in batches.

    On the CPU, torch's uint8 resize with antialiasing is within 8 of 255 levels of PIL's, and 0.2
    on average. Boxes of over four times the size are cut from a halved image (one level on
    average), on whose pixels they are laid, which moves an edge by at most 0.2 % of the box
    (`tests/contract/test_encoders.py` checks all this). More threads, or cutting a batch while the
    tower runs the previous one, gained 1 to 2 % of `detect`, because of Python's lock.
    """

    size: int
    """Side of a region, in pixels."""
    square: bool
    """Whether boxes are made square with real context; else they are squashed."""
    mode: str
    """`bicubic` or `bilinear`."""
    device: torch.device
    """Each image is uploaded to it once, however many boxes it has."""

    def __call__(
        self, images: Sequence[Image], boxes: Sequence[Boxes], batch_size: int
    ) -> Iterator[Tensor]:
        """Cut boxes; one batch is in memory at a time, however many images there are."""
        views = (
            view
            for image, found in zip(images, boxes, strict=True)
            for view in self._views(image, found)
        )
        while batch := list(islice(views, batch_size)):
            shape = len(batch), self.size, self.size, 3
            cut = torch.empty(shape, dtype=torch.uint8, device=self.device)
            for place, view in zip(cut, batch, strict=True):
                place.copy_(self._resized(view)[0].permute(1, 2, 0))
            yield cut

    def _views(self, image: Image, boxes: Boxes) -> Iterator[Tensor]:
        """Boxes as cut from the image or from a halved one, `(1, 3, h, w)`."""
        if not len(boxes):
            return
        height, width = image.shape[:2]
        pixels = torch.from_numpy(np.require(image, requirements=["C", "W"])).to(self.device)
        halves = [pixels.permute(2, 0, 1)[None]]
        for x1, y1, x2, y2 in clip_to_pixels(boxes, (width, height), square=self.square).tolist():
            level = self._level(min(x2 - x1, y2 - y1))
            while len(halves) <= level:
                halves.append(_half(halves[-1]))
            step = 1 << level
            left, top, right, bottom = (round(edge / step) for edge in (x1, y1, x2, y2))
            yield halves[level][:, :, top:bottom, left:right]

    def _level(self, side: int) -> int:
        """How often to halve the image for a box with this short side."""
        if self.device.type != "cpu":
            return 0
        return max(int(log2(side / (GAP * self.size))), 0)

    def _resized(self, view: Tensor) -> Tensor:
        """Resize to `(1, 3, size, size)`, channels last."""
        height, width = view.shape[-2:]
        if self.square and height != width:
            # The square reaches beyond the image: fill with mid-grey to keep the aspect.
            extra_y, extra_x = max(width - height, 0), max(height - width, 0)
            left, top = extra_x // 2, extra_y // 2
            view = pad(view, (left, extra_x - left, top, extra_y - top), value=GREY)
        view = view.contiguous(memory_format=torch.channels_last)
        size = (self.size, self.size)
        if view.device.type == "cpu":
            return interpolate(view, size, mode=self.mode, antialias=True)
        resized = interpolate(view.float(), size, mode=self.mode, antialias=True)
        return resized.round().clamp(0, 255).byte()  # CUDA has no uint8 resize


def _half(planes: Tensor) -> Tensor:
    """Average each 2x2 pixels; an odd last row or column is left out."""
    image = planes[0].permute(1, 2, 0).numpy()
    height, width = image.shape[0] // 2, image.shape[1] // 2
    even = image[: 2 * height, : 2 * width]
    half = cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(half).permute(2, 0, 1)[None]
