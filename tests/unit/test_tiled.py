"""Tiles show small things; whatever the tiles, each thing is proposed once, and whole."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest
from fakes import FakeProposer

from openvocab.proposers.tiled import TiledProposer
from openvocab.types import Proposals

TILE = 100  # tiles begin every 80 pixels; what ends within a pixel of an edge of one is cut
SIZE = (260, 340)  # tiles begin at 0, 80, 160 down, and at 0, 80, 160, 240 across


@dataclass(frozen=True)
class Thing:
    """A rectangle, painted in a value of its own."""

    xyxy: tuple[int, int, int, int]
    score: float = 0.9
    label: str = "thing"


@dataclass
class Eyes:
    """Sees the part of each thing that a picture shows, if it is not too small in it."""

    things: tuple[Thing, ...]
    smallest: float = 0.1  # of the longer side of the picture
    keen: float = 0.0  # added to the objectness of what is seen in a tile
    masks: bool = False
    looks: list[tuple[int, ...]] = field(default_factory=list)
    names: tuple[str, ...] = ("thing", "dog", "cat")

    def paint(self, size=SIZE):
        picture = np.zeros((*size, 3), np.uint8)
        for value, thing in enumerate(self.things, start=1):
            x1, y1, x2, y2 = thing.xyxy
            picture[y1:y2, x1:x2] = value
        return picture

    def propose(self, pictures):
        self.looks += [picture.shape[:2] for picture in pictures]
        return [self._see(picture) for picture in pictures]

    def _see(self, picture):
        seen = []
        for value, thing in enumerate(self.things, start=1):
            shown = picture[:, :, 0] == value
            ys, xs = np.nonzero(shown)
            if not len(xs) or max(np.ptp(xs), np.ptp(ys)) < self.smallest * max(picture.shape):
                continue
            box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            keen = self.keen if max(picture.shape) <= TILE else 0
            seen.append((thing.score + keen, box, thing.label, shown))
        seen.sort(key=lambda row: -row[0])
        return Proposals(
            np.array([row[1] for row in seen], np.float32).reshape(-1, 4),
            np.array([row[0] for row in seen], np.float32),
            tuple(row[2] for row in seen),
            np.array([row[3] for row in seen], bool).reshape(-1, *picture.shape[:2])
            if self.masks
            else None,
        )


def boxes(found):
    return sorted(tuple(map(int, box)) for box in found.xyxy)


def propose(eyes, size=SIZE, **settings):
    (found,) = TiledProposer(eyes, TILE, **settings).propose([eyes.paint(size)])
    return found


def test_a_small_thing_that_the_whole_image_does_not_show_is_found_with_its_label():
    eyes = Eyes((Thing((200, 150, 215, 160), 0.7, "dog"),))
    (whole,) = eyes.propose([eyes.paint()])
    assert len(whole) == 0
    found = propose(eyes)
    assert boxes(found) == [(200, 150, 215, 160)]
    assert found.labels == ("dog",)
    np.testing.assert_allclose(found.objectness, [0.7])
    assert found.xyxy.dtype == found.objectness.dtype == np.float32


@pytest.mark.parametrize("keen", [-0.3, 0.0, 0.1], ids=["weaker", "equal", "stronger"])
@pytest.mark.parametrize(
    "xyxy",
    [
        (90, 100, 110, 120),  # cut by the first tile across, whole in the next
        (85, 85, 99, 99),  # whole in four tiles
        (60, 60, 150, 150),  # smaller than a tile and whole in none
        (20, 30, 300, 200),  # larger than a tile
        (0, 0, 340, 260),  # all there is: some tiles show nothing else
        (0, 50, 340, 60),  # across the image
        (300, 0, 340, 260),  # down its edge
        (0, 0, 50, 50),  # in the corner: the image's edge, not a tile's
    ],
)
def test_a_thing_is_proposed_once_and_whole(xyxy, keen):
    assert boxes(propose(Eyes((Thing(xyxy),), keen=keen))) == [xyxy]


@pytest.mark.parametrize(
    "things",
    [
        ((20, 30, 300, 200), (190, 90, 225, 130)),  # in front of a thing larger than a tile
        ((0, 0, 340, 260), (10, 10, 60, 60), (200, 100, 230, 130)),
        ((60, 60, 150, 150), (100, 100, 120, 120)),  # in front of a thing whole in no tile
    ],
)
def test_what_stands_in_front_of_a_thing_is_not_its_part(things):
    found = propose(Eyes(tuple(map(Thing, things)), smallest=0.05))
    assert boxes(found) == sorted(things)


def test_a_cut_box_that_nothing_covers_stays():
    """Too small for the look at the whole, too large for any tile."""
    eyes = Eyes((Thing((60, 60, 150, 150)),), smallest=0.3)
    found = propose(eyes)
    assert len(found) > 0
    assert (found.xyxy[:, :2] >= 60).all() and (found.xyxy[:, 2:] <= 150).all()


def test_a_cut_thing_stays_when_only_a_small_whole_one_lies_in_it():
    large, small = Thing((60, 60, 150, 150)), Thing((100, 100, 130, 130))
    found = propose(Eyes((large, small), smallest=0.29))
    assert {(80, 80, 150, 150), (100, 100, 130, 130)} <= set(boxes(found))


def test_masks_are_those_of_the_whole_image():
    large, small = Thing((20, 30, 300, 200), 0.8), Thing((305, 210, 325, 220), 0.6)
    eyes = Eyes((large, small), masks=True)
    found = propose(eyes)
    assert found.masks.dtype == np.bool_
    picture = eyes.paint()[:, :, 0]
    np.testing.assert_array_equal(found.masks, [picture == 1, picture == 2])


@pytest.mark.parametrize("masks", [False, True])
def test_nothing_is_found_in_an_empty_image(masks):
    found = propose(Eyes((), masks=masks))
    assert len(found) == 0
    assert found.xyxy.shape == (0, 4)
    assert (None if found.masks is None else found.masks.shape) == ((0, *SIZE) if masks else None)


@pytest.mark.parametrize("size", [SIZE, (90, 100)], ids=["tiles", "one look"])
def test_the_best_boxes_come_first_and_no_more_than_asked_for(size):
    things = tuple(
        Thing((x, y, x + 12, y + 12), 0.5 + 0.01 * (x + y) % 0.4)
        for x in range(2, size[1] - 14, 20)
        for y in range(2, size[0] - 14, 20)
    )
    every, some = propose(Eyes(things), size), propose(Eyes(things), size, max_boxes=5)
    assert len(every) == min(len(things), 100)
    assert (np.diff(every.objectness) <= 0).all()
    np.testing.assert_array_equal(some.objectness, every.objectness[:5])


@pytest.mark.parametrize(
    ("size", "looks"),
    [
        ((1, 1), 1),
        ((100, 100), 1),
        ((40, 100), 1),
        ((100, 101), 3),  # the whole and two tiles
        ((40, 181), 4),
        (SIZE, 13),
    ],
)
def test_an_image_costs_one_look_and_one_a_tile(size, looks):
    eyes = Eyes(())
    propose(eyes, size)
    assert len(eyes.looks) == looks
    assert eyes.looks[0] == size
    assert all(max(look) <= TILE for look in eyes.looks[1:])


def test_each_of_several_images_is_looked_at():
    eyes = Eyes((Thing((200, 150, 215, 160)), Thing((10, 10, 30, 30), 0.6, "cat")))
    pictures = [eyes.paint(), np.zeros((50, 50, 3), np.uint8), eyes.paint()[:100, :100]]
    tiled = TiledProposer(eyes, TILE)
    assert tiled.names == eyes.names
    assert [found.labels for found in tiled.propose(pictures)] == [("thing", "cat"), (), ("cat",)]


@pytest.mark.parametrize("tile_size", [0, -5, 10.5])
def test_a_tile_without_size_is_refused(tile_size):
    with pytest.raises(ValueError, match="slice_wh"):
        TiledProposer(Eyes(()), tile_size)


def test_many_threads_may_share_it():
    things = (Thing((20, 30, 300, 200)), Thing((305, 210, 325, 220), 0.6, "dog"))
    tiled = TiledProposer(Eyes(things), TILE)
    pictures = [Eyes(things[:count]).paint() for count in (0, 1, 2)] * 8
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda picture: tiled.propose([picture])[0], pictures))
    assert [len(each) for each in found] == [0, 1, 2] * 8


@pytest.mark.parametrize(
    ("side", "tile", "masks", "mebibytes"),
    # 401 looks with 100 boxes each: 12 GiB, were all pairs compared.
    [(10_000, 640, False, 60), (1600, 200, True, 120)],  # 3 GiB of masks at the image's size
    ids=["boxes", "masks"],
)
def test_memory_does_not_grow_with_the_number_of_tiles(side, tile, masks, mebibytes):
    corners = np.random.default_rng(0).uniform(0, 0.7 * tile, (100 if not masks else 10, 2))
    crowd = FakeProposer(*np.hstack([corners, corners + 0.2 * tile]))
    picture = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (side, side, 3))

    class Masked:
        names = crowd.names

        def propose(self, pictures):
            (found,), (height, width) = crowd.propose(pictures), pictures[0].shape[:2]
            shown = np.ones((len(found), height, width), bool) if masks else None
            return [Proposals(found.xyxy, found.objectness, found.labels, shown)]

    tracemalloc.start()
    (found,) = TiledProposer(Masked(), tile, max_boxes=10).propose([picture])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 10
    assert peak < mebibytes * 2**20
