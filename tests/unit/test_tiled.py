"""Tiles find small objects; every object is proposed once and whole, however tiles cut it."""

import dataclasses
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest
from fakes import FakeProposer

from openvocab.proposers import TiledProposer
from openvocab.types import Proposals

TILE = 100  # tiles start every 80 pixels; a box that ends within a pixel of a tile's edge is cut
SIZE = (260, 340)  # tiles start at 0, 80, 160 down, and at 0, 80, 160, 240 across


@dataclass(frozen=True)
class Rectangle:
    """An object, painted with its own pixel value."""

    xyxy: tuple[int, int, int, int]
    score: float = 0.9
    label: str = "object"


@dataclass
class RectangleProposer:
    """Proposes the visible part of every rectangle that is not too small in the image."""

    rectangles: tuple[Rectangle, ...]
    min_size: float = 0.1  # of the longer side of the image
    tile_bonus: float = 0.0  # added to the objectness in a tile
    masks: bool = False
    calls: list[tuple[int, ...]] = field(default_factory=list)
    labels: tuple[str, ...] = ("object", "dog", "cat")

    def paint(self, size=SIZE):
        image = np.zeros((*size, 3), np.uint8)
        for value, rectangle in enumerate(self.rectangles, start=1):
            x1, y1, x2, y2 = rectangle.xyxy
            image[y1:y2, x1:x2] = value
        return image

    def propose(self, images):
        self.calls += [image.shape[:2] for image in images]
        return [self._propose(image) for image in images]

    def _propose(self, image):
        rows = []
        for value, rectangle in enumerate(self.rectangles, start=1):
            mask = image[:, :, 0] == value
            ys, xs = np.nonzero(mask)
            if not len(xs) or max(np.ptp(xs), np.ptp(ys)) < self.min_size * max(image.shape):
                continue
            box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            bonus = self.tile_bonus if max(image.shape) <= TILE else 0
            rows.append((rectangle.score + bonus, box, rectangle.label, mask))
        rows.sort(key=lambda row: -row[0])
        return Proposals(
            np.array([row[1] for row in rows], np.float32).reshape(-1, 4),
            np.array([row[0] for row in rows], np.float32),
            np.array([self.labels.index(row[2]) for row in rows], np.intp),
            np.array([row[3] for row in rows], bool).reshape(-1, *image.shape[:2])
            if self.masks
            else None,
        )


def boxes(proposals):
    return sorted(tuple(map(int, box)) for box in proposals.xyxy)


def propose(proposer, size=SIZE, **options):
    (proposals,) = TiledProposer(proposer, TILE, **options).propose([proposer.paint(size)])
    return proposals


def test_an_object_too_small_for_the_whole_image_is_found_with_its_label():
    proposer = RectangleProposer((Rectangle((200, 150, 215, 160), 0.7, "dog"),))
    (whole,) = proposer.propose([proposer.paint()])
    assert len(whole) == 0
    proposals = propose(proposer)
    assert boxes(proposals) == [(200, 150, 215, 160)]
    assert [proposer.labels[index] for index in proposals.label_ids] == ["dog"]
    np.testing.assert_allclose(proposals.objectness, [0.7])
    assert proposals.xyxy.dtype == proposals.objectness.dtype == np.float32


@pytest.mark.parametrize("tile_bonus", [-0.3, 0.0, 0.1], ids=["weaker", "equal", "stronger"])
@pytest.mark.parametrize(
    "xyxy",
    [
        (90, 100, 110, 120),  # cut by the first tile across, whole in the next
        (85, 85, 99, 99),  # whole in four tiles
        (60, 60, 150, 150),  # smaller than a tile and whole in none
        (20, 30, 300, 200),  # larger than a tile
        (0, 0, 340, 260),  # the whole image: some tiles show nothing else
        (0, 50, 340, 60),  # across the image
        (300, 0, 340, 260),  # down its edge
        (0, 0, 50, 50),  # in the corner: the image's edge, not a tile's
    ],
)
def test_an_object_is_proposed_once_and_whole(xyxy, tile_bonus):
    assert boxes(propose(RectangleProposer((Rectangle(xyxy),), tile_bonus=tile_bonus))) == [xyxy]


@pytest.mark.parametrize(
    "xyxys",
    [
        ((20, 30, 300, 200), (190, 90, 225, 130)),  # in front of an object larger than a tile
        ((0, 0, 340, 260), (10, 10, 60, 60), (200, 100, 230, 130)),
        (
            (60, 60, 150, 150),
            (100, 100, 120, 120),
        ),  # in front of an object that is whole in no tile
    ],
)
def test_an_object_in_front_of_another_is_proposed_too(xyxys):
    proposals = propose(RectangleProposer(tuple(map(Rectangle, xyxys)), min_size=0.05))
    assert boxes(proposals) == sorted(xyxys)


def test_a_cut_box_that_no_other_covers_is_kept():
    """Too small to be proposed in the whole image, too large for any tile."""
    proposer = RectangleProposer((Rectangle((60, 60, 150, 150)),), min_size=0.3)
    proposals = propose(proposer)
    assert len(proposals) > 0
    assert (proposals.xyxy[:, :2] >= 60).all() and (proposals.xyxy[:, 2:] <= 150).all()


def test_a_cut_box_that_contains_only_a_smaller_whole_one_is_kept():
    large, small = Rectangle((60, 60, 150, 150)), Rectangle((100, 100, 130, 130))
    proposals = propose(RectangleProposer((large, small), min_size=0.29))
    assert {(80, 80, 150, 150), (100, 100, 130, 130)} <= set(boxes(proposals))


def test_masks_are_those_of_the_whole_image():
    large, small = Rectangle((20, 30, 300, 200), 0.8), Rectangle((305, 210, 325, 220), 0.6)
    proposer = RectangleProposer((large, small), masks=True)
    proposals = propose(proposer)
    assert proposals.masks.dtype == np.bool_
    image = proposer.paint()[:, :, 0]
    np.testing.assert_array_equal(proposals.masks, [image == 1, image == 2])


@pytest.mark.parametrize("masks", [False, True])
def test_an_empty_image_has_no_proposals(masks):
    proposals = propose(RectangleProposer((), masks=masks))
    assert len(proposals) == 0
    assert proposals.xyxy.shape == (0, 4)
    assert (None if proposals.masks is None else proposals.masks.shape) == (
        (0, *SIZE) if masks else None
    )


@pytest.mark.parametrize("size", [SIZE, (90, 100)], ids=["tiles", "whole"])
def test_the_best_boxes_come_first_up_to_the_limit(size):
    rectangles = tuple(
        Rectangle((x, y, x + 12, y + 12), 0.5 + 0.01 * (x + y) % 0.4)
        for x in range(2, size[1] - 14, 20)
        for y in range(2, size[0] - 14, 20)
    )
    unlimited = propose(RectangleProposer(rectangles), size)
    limited = propose(RectangleProposer(rectangles), size, max_boxes=5)
    assert len(unlimited) == min(len(rectangles), 100)
    assert (np.diff(unlimited.objectness) <= 0).all()
    np.testing.assert_array_equal(limited.objectness, unlimited.objectness[:5])


@pytest.mark.parametrize(
    ("size", "count"),
    [
        ((1, 1), 1),
        ((100, 100), 1),
        ((40, 100), 1),
        ((100, 101), 3),  # the whole and two tiles
        ((40, 181), 4),
        (SIZE, 13),
    ],
)
def test_the_detector_runs_on_the_whole_image_and_on_every_tile(size, count):
    proposer = RectangleProposer(())
    propose(proposer, size)
    assert len(proposer.calls) == count
    assert proposer.calls[0] == size
    assert all(max(shape) <= TILE for shape in proposer.calls[1:])


def test_a_batch_gives_the_proposals_of_every_image():
    proposer = RectangleProposer(
        (Rectangle((200, 150, 215, 160)), Rectangle((10, 10, 30, 30), 0.6, "cat"))
    )
    images = [proposer.paint(), np.zeros((50, 50, 3), np.uint8), proposer.paint()[:100, :100]]
    tiled = TiledProposer(proposer, TILE)
    assert tiled.labels == proposer.labels
    labels = [
        [tiled.labels[index] for index in proposals.label_ids]
        for proposals in tiled.propose(images)
    ]
    assert labels == [["object", "cat"], [], ["cat"]]


@pytest.mark.parametrize("tile_size", [0, -5, 10.5])
def test_a_tile_size_that_is_not_a_positive_integer_is_refused(tile_size):
    with pytest.raises(ValueError, match="slice_wh"):
        TiledProposer(RectangleProposer(()), tile_size)


def test_threads_may_share_a_proposer():
    rectangles = (Rectangle((20, 30, 300, 200)), Rectangle((305, 210, 325, 220), 0.6, "dog"))
    tiled = TiledProposer(RectangleProposer(rectangles), TILE)
    images = [RectangleProposer(rectangles[:count]).paint() for count in (0, 1, 2)] * 8
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda image: tiled.propose([image])[0], images))
    assert [len(proposals) for proposals in results] == [0, 1, 2] * 8


@pytest.mark.parametrize(
    ("side", "tile", "masks", "mebibytes"),
    # 401 calls with 100 boxes each: comparing all pairs would take 12 GiB.
    [(10_000, 640, False, 60), (1600, 200, True, 120)],  # 3 GiB of masks at the image's size
    ids=["boxes", "masks"],
)
def test_memory_does_not_grow_with_the_number_of_tiles(side, tile, masks, mebibytes):
    corners = np.random.default_rng(0).uniform(0, 0.7 * tile, (100 if not masks else 10, 2))
    crowd = FakeProposer(*np.hstack([corners, corners + 0.2 * tile]))
    image = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (side, side, 3))

    class Masked:
        labels = crowd.labels

        def propose(self, images):
            (proposals,) = crowd.propose(images[:1])
            if not masks:
                return [proposals] * len(images)
            shapes = [(len(proposals), *image.shape[:2]) for image in images]
            return [dataclasses.replace(proposals, masks=np.ones(shape, bool)) for shape in shapes]

    tracemalloc.start()
    (proposals,) = TiledProposer(Masked(), tile, max_boxes=10).propose([image])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(proposals) == 10
    assert peak < mebibytes * 2**20
