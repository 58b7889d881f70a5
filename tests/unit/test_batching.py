"""Whose turn it is when requests wait together, on a detector that works when it is told to."""

import threading

import numpy as np
import pytest

from openvocab.server.batching import BOXES, Batcher
from openvocab.server.errors import BusyError, ShuttingDownError
from openvocab.types import Proposals

BROKEN = 13  # boxes of a picture that cannot be encoded


class Slow:
    """Finds as many boxes as a picture is wide; encodes when it may, and remembers what."""

    def __init__(self) -> None:
        self.may, self.at_work = threading.Semaphore(0), threading.Semaphore(0)
        self.proposed: list[int] = []
        self.turns: list[list[int]] = []

    def propose(self, images, _lowest):
        widths = [image.shape[1] for image in images]
        self.proposed += widths
        return [
            Proposals(np.zeros((n, 4), np.float32), np.ones(n, np.float32), ("thing",) * n)
            for n in widths
        ]

    def encode(self, _images, boxes):
        self.turns.append([len(each) for each in boxes])
        self.at_work.release()
        assert self.may.acquire(timeout=20)
        if any(len(each) == BROKEN for each in boxes):
            raise ValueError("broken")
        return [np.zeros((len(each), 2), np.float32) for each in boxes]


class Naming:
    """Names nothing, and says how many boxes there were."""

    def __init__(self, lowest: float = 0.3) -> None:
        self.lowest = lowest

    def detections(self, regions):
        return len(regions.features)


@pytest.fixture
def slow():
    return Slow()


@pytest.fixture
def batcher(slow):
    made = Batcher(slow, max_batch=4, max_waiting=8)
    made.start()
    yield made
    slow.may.release(1000)
    made.close()


def picture(boxes: int) -> np.ndarray:
    return np.zeros((2, boxes, 3), np.uint8)


def ask(batcher: Batcher, *boxes: int, lowest: float = 0.3):
    return [batcher.submit(picture(each), Naming(lowest)) for each in boxes]


def busy(batcher: Batcher, slow: Slow):
    """One request at work, so that others wait."""
    (first,) = ask(batcher, 1)
    assert slow.at_work.acquire(timeout=20)
    return first


def test_what_waits_is_done_together_and_everybody_gets_their_own(batcher, slow):
    first = busy(batcher, slow)
    others = ask(batcher, 5, 6, 7)
    slow.may.release(2)
    assert [each.result(20) for each in (first, *others)] == [1, 5, 6, 7]
    assert slow.turns == [[1], [5, 6, 7]]


def test_many_boxes_do_not_hold_up_few(batcher, slow):
    busy(batcher, slow)
    heavy = ask(batcher, 300, 301, 302)
    light = ask(batcher, 3)
    slow.may.release(2)
    assert light[0].result(20) == 3
    assert not heavy[1].done()
    slow.may.release(2)
    assert [each.result(20) for each in heavy] == [300, 301, 302]
    assert slow.turns == [[1], [300, 3], [301], [302]]


def test_more_boxes_than_a_turn_holds_take_several(batcher, slow):
    busy(batcher, slow)
    asked = ask(batcher, BOXES, BOXES, 1, 1)
    slow.may.release(10)
    assert [each.result(20) for each in asked] == [BOXES, BOXES, 1, 1]
    assert all(sum(turn[1:]) <= BOXES for turn in slow.turns)
    assert slow.turns[1] == [BOXES, 1, 1]


def test_who_asks_for_high_scores_is_looked_at_first(batcher, slow):
    busy(batcher, slow)
    greedy = ask(batcher, 200, 201, 202, 203, 204, lowest=0.0)
    ask(batcher, 2, lowest=0.5)
    slow.may.release(10)
    greedy[-1].result(20)
    assert slow.proposed[1:5] == [200, 2, 201, 202]  # the oldest is never passed over


def test_what_nobody_waits_for_is_not_done_and_keeps_no_place(batcher, slow):
    busy(batcher, slow)
    gone = ask(batcher, *[9] * 8)
    with pytest.raises(BusyError):
        ask(batcher, 9)
    assert batcher.waiting == 9
    for each in gone:
        each.cancel()
    assert batcher.waiting == 1
    (late,) = ask(batcher, 4)
    slow.may.release(2)
    assert late.result(20) == 4
    assert slow.proposed == [1, 4]


def test_only_the_one_at_fault_is_told(batcher, slow):
    busy(batcher, slow)
    good, bad, other = ask(batcher, 2, BROKEN, 3)
    slow.may.release(10)
    assert (good.result(20), other.result(20)) == (2, 3)
    with pytest.raises(ValueError, match="broken"):
        bad.result(20)
    assert batcher.alive


def test_it_answers_what_waits_before_it_ends(batcher, slow):
    busy(batcher, slow)
    waiting = ask(batcher, *range(2, 10))
    slow.may.release(1000)
    batcher.close()
    assert [each.result(0) for each in waiting] == list(range(2, 10))
    assert not batcher.alive
    with pytest.raises(ShuttingDownError):
        ask(batcher, 1)
