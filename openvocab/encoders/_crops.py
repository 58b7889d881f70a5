"""Cuts boxes out of images, and resizes them to the input size of an image encoder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import log2

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from openvocab.encoders._boxes import clip_to_pixels
from openvocab.types import Boxes, Image

_PADDING = 114  # mid-grey, as Ultralytics pads
# Before resizing, a crop is halved as long as it stays at least this many times the encoder's size.
# Pillow's `reducing_gap` does the same, and shows no visible difference from 3 on.
_REDUCING_GAP = 2


@dataclass(frozen=True, slots=True)
class Cropper:
    """Cuts boxes of images as batches of crops `(N, size, size, 3)` uint8 BGR.

    On the CPU, torch's uint8 resize with antialiasing is within 8 of 255 levels of PIL's, and 0.2
    on average. Boxes of over four times the size are cut from a halved image (one level on
    average), to whose pixels they are rounded, which moves an edge by at most 0.2 % of the box
    (`tests/contract/test_encoders.py` checks all this). More threads, or cutting a batch while the
    encoder runs the previous one, gained 1 to 2 % of `detect`, because of the GIL.
    """

    size: int
    """Side of a crop, in pixels."""
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
        crops = (
            crop
            for image, xyxy in zip(images, boxes, strict=True)
            for crop in self._crops(image, xyxy)
        )
        while batch := list(islice(crops, batch_size)):
            shape = len(batch), self.size, self.size, 3
            resized = torch.empty(shape, dtype=torch.uint8, device=self.device)
            for row, crop in zip(resized, batch, strict=True):
                row.copy_(self._resize(crop)[0].permute(1, 2, 0))
            yield resized

    def _crops(self, image: Image, boxes: Boxes) -> Iterator[Tensor]:
        """Views `(1, 3, h, w)` of the boxes in the image, or in a halved one."""
        if not len(boxes):
            return
        height, width = image.shape[:2]
        pixels = torch.from_numpy(np.require(image, requirements=["C", "W"])).to(self.device)
        pyramid = [pixels.permute(2, 0, 1)[None]]
        for x1, y1, x2, y2 in clip_to_pixels(boxes, (width, height), square=self.square).tolist():
            level = self._level(min(x2 - x1, y2 - y1))
            while len(pyramid) <= level:
                pyramid.append(_halve(pyramid[-1]))
            step = 1 << level
            left, top, right, bottom = (round(edge / step) for edge in (x1, y1, x2, y2))
            yield pyramid[level][:, :, top:bottom, left:right]

    def _level(self, side: int) -> int:
        """How often to halve the image for a box with this short side."""
        if self.device.type != "cpu":
            return 0
        return max(int(log2(side / (_REDUCING_GAP * self.size))), 0)

    def _resize(self, crop: Tensor) -> Tensor:
        """Resize to `(1, 3, size, size)`, channels last."""
        height, width = crop.shape[-2:]
        if self.square and height != width:
            # The square reaches beyond the image: pad to keep the aspect ratio.
            extra_y, extra_x = max(width - height, 0), max(height - width, 0)
            left, top = extra_x // 2, extra_y // 2
            crop = pad(crop, (left, extra_x - left, top, extra_y - top), value=_PADDING)
        crop = crop.contiguous(memory_format=torch.channels_last)
        size = (self.size, self.size)
        if crop.device.type == "cpu":
            return interpolate(crop, size, mode=self.mode, antialias=True)
        resized = interpolate(crop.float(), size, mode=self.mode, antialias=True)
        return resized.round().clamp(0, 255).byte()  # CUDA has no uint8 resize


def _halve(planes: Tensor) -> Tensor:
    """Average each 2x2 pixels; an odd last row or column is left out."""
    image = planes[0].permute(1, 2, 0).numpy()
    height, width = image.shape[0] // 2, image.shape[1] // 2
    even = image[: 2 * height, : 2 * width]
    half = cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(half).permute(2, 0, 1)[None]
