"""Batches waiting requests through the networks together, and turns away those too many."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import NamedTuple, TypeVar

import supervision as sv

from openvocab.detector import OpenVocabDetector
from openvocab.scoring.class_head import ClassHead
from openvocab.server.errors import BusyError, ShuttingDownError
from openvocab.types import Image, Proposals

BOXES = 128  # encoded in one turn, besides those of the oldest image, which may have any number
T = TypeVar("T", bound="_Job | _Seen")
R = TypeVar("R")


class _Job(NamedTuple):
    image: Image
    head: ClassHead
    answer: "Future[sv.Detections]"


class _Seen(NamedTuple):
    job: _Job
    boxes: Proposals


class Batcher:
    """Runs the networks in one thread for all requests, each with its own classes.

    Requests that arrive meanwhile make the next batch: nobody waits for others while the networks
    are idle. Each turn answers the oldest picture, and with it those with the fewest boxes, so only
    callers who ask for every speck have to wait for that.
    """

    def __init__(
        self, detector: OpenVocabDetector, *, max_batch: int = 8, max_waiting: int = 32
    ) -> None:
        """Prepare; `start` starts the thread.

        Args:
            detector: detector whose networks are run.
            max_batch: images, at most, whose boxes are known but not yet named.
            max_waiting: images that may wait for that.
        """
        self._detector, self._max_batch, self._max_waiting = detector, max_batch, max_waiting
        self._jobs: list[_Job] = []  # the oldest first, as in `_seen`
        self._seen: list[_Seen] = []
        self._stopped = False
        self._changed = threading.Condition()
        self.told: Callable[[int], None] = lambda _: None
        """Called with the number of images in each turn."""
        self._thread = threading.Thread(target=self._run, name="openvocab-batches", daemon=True)

    def start(self) -> None:
        """Start answering requests."""
        self._thread.start()

    def submit(self, image: Image, head: ClassHead) -> "Future[sv.Detections]":
        """Queue an image; a future that is cancelled before its turn costs nothing.

        Raises:
            BusyError: the maximum number of images is waiting.
            ShuttingDownError: the server is stopping.
        """
        with self._changed:
            if self._stopped:
                raise ShuttingDownError("The server stops; try another one.")
            self._jobs = [job for job in self._jobs if not job.answer.done()]
            if len(self._jobs) >= self._max_waiting:
                raise BusyError("Too many requests wait; try again later.")
            job = _Job(image, head, Future())
            self._jobs.append(job)
            self._changed.notify()
        return job.answer

    @property
    def waiting(self) -> int:
        """How many images are waiting, for their boxes or for the names of these."""
        with self._changed:
            jobs = [*self._jobs, *(each.job for each in self._seen)]
        return sum(not job.answer.done() for job in jobs)

    @property
    def alive(self) -> bool:
        """Whether requests will be answered."""
        return self._thread.is_alive() and not self._stopped

    def close(self) -> None:
        """Answer waiting images, and stop."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._seen or self._stopped)
                if not (self._jobs or self._seen):
                    return
                new = self._taken()
            self._seen += _tried(new, self._propose)
            turn = self._turn()
            if turn:
                self.told(len(turn))
            for each, found in _tried(turn, self._name):
                with suppress(InvalidStateError):  # cancelled just now
                    each.job.answer.set_result(found)
            self._seen = [each for each in self._seen if not each.job.answer.done()]

    def _taken(self) -> list[_Job]:
        """The oldest job, and those with the highest thresholds, as many as there is room for."""
        waiting = [job for job in self._jobs if not job.answer.done()]
        room = self._max_batch - len(self._seen)
        first = waiting[: room > 1]
        rest = sorted(waiting[len(first) :], key=lambda job: -job.head.min_score)
        taken = [*first, *rest][:room]
        self._jobs = [job for job in waiting if not any(job is each for each in taken)]
        return taken

    def _turn(self) -> list[_Seen]:
        """The oldest image, and those with the fewest boxes."""
        seen = [each for each in self._seen if not each.job.answer.done()]
        turn, room = seen[:1], BOXES
        for each in sorted(seen[1:], key=lambda each: len(each.boxes)):
            room -= len(each.boxes)
            if room < 0:
                break
            turn.append(each)
        return turn

    def _propose(self, jobs: Sequence[_Job]) -> list[_Seen]:
        lowest = [job.head.min_score for job in jobs]
        found = self._detector.propose([job.image for job in jobs], lowest)
        return list(map(_Seen, jobs, found))

    def _name(self, turn: Sequence[_Seen]) -> list[tuple[_Seen, sv.Detections]]:
        images, boxes = [each.job.image for each in turn], [each.boxes for each in turn]
        return [
            (each, each.job.head.classify(regions))
            for each, regions in zip(turn, self._detector.encode(images, boxes), strict=True)
        ]


def _tried(waiting: Sequence[T], work: Callable[[Sequence[T]], list[R]]) -> list[R]:
    """Do work together; if it fails, one by one, so that only those at fault get the error."""
    try:
        return work(waiting) if waiting else []
    except Exception as error:  # noqa: BLE001  goes to whoever asked; the thread lives on
        if len(waiting) > 1:
            return [done for each in waiting for done in _tried([each], work)]
        (alone,) = waiting
        with suppress(InvalidStateError):  # cancelled meanwhile
            (alone.job if isinstance(alone, _Seen) else alone).answer.set_exception(error)
        return []
