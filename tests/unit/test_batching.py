"""The order in which waiting images are batched, on a detector that works when it is allowed to."""

import threading

import numpy as np
import pytest

from openvocab.server._batching import MAX_BOXES, Batcher
from openvocab.server._errors import ShuttingDownError
from openvocab.types import EncodedRegions, Proposals

BROKEN = 13  # boxes of an image that cannot be encoded


class SlowDetector:
    """Proposes as many boxes as an image is wide; encodes when allowed to, and records batches."""

    def __init__(self) -> None:
        self.may_encode, self.encoding = threading.Semaphore(0), threading.Semaphore(0)
        self.proposed: list[int] = []
        self.batches: list[list[int]] = []
        self.sizes: list[tuple[int | None, int | None]] = []

    def with_sizes(self, *sizes):
        self.sizes.append(sizes)
        return self

    def propose(self, images, _min_scores):
        widths = [image.shape[1] for image in images]
        self.proposed += widths
        return [
            Proposals(
                np.zeros((width, 4), np.float32),
                np.ones(width, np.float32),
                np.zeros(width, np.intp),
            )
            for width in widths
        ]

    def encode(self, _images, proposals):
        boxes = [len(of_image) for of_image in proposals]
        self.batches.append(boxes)
        self.encoding.release()
        assert self.may_encode.acquire(timeout=20)
        if BROKEN in boxes:
            raise ValueError("broken")
        return [
            EncodedRegions(of_image, np.zeros((len(of_image), 2), np.float32))
            for of_image in proposals
        ]


def count_boxes(regions):
    """Stands for the classification."""
    return len(regions.features)


@pytest.fixture
def detector():
    return SlowDetector()


@pytest.fixture
def batcher(detector):
    batcher = Batcher(detector, max_batch=4)
    batcher.start()
    yield batcher
    detector.may_encode.release(1000)
    batcher.close()


def submit(batcher: Batcher, *widths: int, min_score: float = 0.3):
    images = [np.zeros((2, width, 3), np.uint8) for width in widths]
    return [batcher.submit(image, min_score, count_boxes) for image in images]


def occupy(batcher: Batcher, detector: SlowDetector):
    """Submit one image and wait until it is being encoded, so that later ones wait."""
    (first,) = submit(batcher, 1)
    assert detector.encoding.acquire(timeout=20)
    return first


def test_waiting_images_make_one_batch(batcher, detector):
    first = occupy(batcher, detector)
    others = submit(batcher, 5, 6, 7)
    detector.may_encode.release(2)
    assert [future.result(20) for future in (first, *others)] == [1, 5, 6, 7]
    assert detector.batches == [[1], [5, 6, 7]]


def test_many_boxes_do_not_delay_few(batcher, detector):
    occupy(batcher, detector)
    heavy = submit(batcher, 300, 301, 302)
    (light,) = submit(batcher, 3)
    detector.may_encode.release(2)
    assert light.result(20) == 3
    assert not heavy[1].done()
    detector.may_encode.release(2)
    assert [future.result(20) for future in heavy] == [300, 301, 302]
    assert detector.batches == [[1], [300, 3], [301], [302]]


def test_more_boxes_than_fit_take_several_batches(batcher, detector):
    occupy(batcher, detector)
    futures = submit(batcher, MAX_BOXES, MAX_BOXES, 1, 1)
    detector.may_encode.release(10)
    assert [future.result(20) for future in futures] == [MAX_BOXES, MAX_BOXES, 1, 1]
    assert all(sum(batch[1:]) <= MAX_BOXES for batch in detector.batches)
    assert detector.batches[1] == [MAX_BOXES, 1, 1]


def test_high_thresholds_come_first(batcher, detector):
    occupy(batcher, detector)
    low = submit(batcher, 200, 201, 202, 203, 204, min_score=0.0)
    submit(batcher, 2, min_score=0.5)
    detector.may_encode.release(10)
    low[-1].result(20)
    assert detector.proposed[1:5] == [200, 2, 201, 202]  # the oldest is never passed over


def test_cancelled_images_are_skipped(batcher, detector):
    occupy(batcher, detector)
    cancelled = submit(batcher, *[9] * 8)
    assert batcher.waiting == 9
    for future in cancelled:
        future.cancel()
    assert batcher.waiting == 1
    (late,) = submit(batcher, 4)
    detector.may_encode.release(2)
    assert late.result(20) == 4
    assert detector.proposed == [1, 4]


def test_an_error_reaches_only_the_image_that_caused_it(batcher, detector):
    occupy(batcher, detector)
    first, broken, last = submit(batcher, 2, BROKEN, 3)
    detector.may_encode.release(10)
    assert (first.result(20), last.result(20)) == (2, 3)
    with pytest.raises(ValueError, match="broken"):
        broken.result(20)
    assert batcher.alive


def test_close_answers_what_waits(batcher, detector):
    occupy(batcher, detector)
    waiting = submit(batcher, *range(2, 10))
    detector.may_encode.release(1000)
    batcher.close()
    assert [future.result(0) for future in waiting] == list(range(2, 10))
    assert not batcher.alive
    with pytest.raises(ShuttingDownError):
        submit(batcher, 1)
