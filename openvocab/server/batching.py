"""Requests that wait together go through the networks together; those too many are turned away."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import NamedTuple, TypeVar

import supervision as sv

from openvocab.classifier import Naming, Regions
from openvocab.detector import OpenVocabDetector
from openvocab.protocols import Image, Proposals
from openvocab.server.errors import BusyError, StoppingError

__all__ = ["Batcher"]

POLL_S = 0.5  # between two looks whether to stop
BOXES = 128  # encoded in one turn, beside those of the oldest image, which may have any number
T = TypeVar("T", bound="_Job | _Seen")
R = TypeVar("R")


class _Job(NamedTuple):
    image: Image
    naming: Naming
    answer: "Future[sv.Detections]"


class _Seen(NamedTuple):
    job: _Job
    boxes: Proposals


class Batcher:
    """One thread runs the networks, for all requests, each with classes of its own.

    What has come meanwhile makes the next batch: nobody waits for company while the networks idle.
    Of what the detector has seen, each turn encodes the oldest image and those with the fewest
    boxes beside it: who asks for every speck waits for it himself.
    """

    def __init__(
        self, detector: OpenVocabDetector, *, max_batch: int = 8, max_waiting: int = 32
    ) -> None:
        """Prepare; `start` starts it.

        Args:
            detector: whose networks run.
            max_batch: images that are looked at, one after the other, before the next turn.
            max_waiting: images that may wait to be looked at.
        """
        self._detector, self._max_batch = detector, max_batch
        self._jobs: queue.Queue[_Job] = queue.Queue(max_waiting)
        self._stopped = threading.Event()
        self.told: Callable[[int], None] = lambda _: None
        """Told of the number of images of each turn."""
        self._thread = threading.Thread(target=self._run, name="openvocab-batches", daemon=True)

    def start(self) -> None:
        """From now on requests are answered."""
        self._thread.start()

    def submit(self, image: Image, naming: Naming) -> "Future[sv.Detections]":
        """Have an image looked at; a future that is cancelled before its turn costs nothing.

        Raises:
            BusyError: as many wait as may.
            StoppingError: the server stops.
        """
        answer: Future[sv.Detections] = Future()
        if self._stopped.is_set():
            raise StoppingError("The server stops; try another one.")
        try:
            self._jobs.put_nowait(_Job(image, naming, answer))
        except queue.Full:
            raise BusyError("Too many requests wait; try again later.") from None
        return answer

    @property
    def waiting(self) -> int:
        """How many images wait."""
        return self._jobs.qsize()

    @property
    def alive(self) -> bool:
        """Whether requests will be answered."""
        return self._thread.is_alive() and not self._stopped.is_set()

    def close(self) -> None:
        """Answer what waits, and stop."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        seen: list[_Seen] = []  # the oldest first
        while seen or not (self._stopped.is_set() and self._jobs.empty()):
            new = [job for job in self._taken(0 if seen else POLL_S) if not job.answer.done()]
            seen += _tried(new, self._propose)
            turn = self._turn([each for each in seen if not each.job.answer.done()])
            if turn:
                self.told(len(turn))
            for each, found in _tried(turn, self._name):
                with suppress(InvalidStateError):  # cancelled just now
                    each.job.answer.set_result(found)
            seen = [each for each in seen if not each.job.answer.done()]

    def _taken(self, wait_s: float) -> list[_Job]:
        """What waits, as much as a batch holds."""
        jobs: list[_Job] = []
        with suppress(queue.Empty):
            jobs.append(self._jobs.get(block=wait_s > 0, timeout=wait_s))
            while len(jobs) < self._max_batch:
                jobs.append(self._jobs.get_nowait())
        return jobs

    def _turn(self, seen: Sequence[_Seen]) -> list[_Seen]:
        turn, room = list(seen[:1]), BOXES
        for each in sorted(seen[1:], key=lambda each: len(each.boxes)):
            room -= len(each.boxes)
            if room < 0 or len(turn) == self._max_batch:
                break
            turn.append(each)
        return turn

    def _propose(self, jobs: Sequence[_Job]) -> list[_Seen]:
        lowest = [job.naming.lowest for job in jobs]
        found = self._detector.propose([job.image for job in jobs], lowest)
        return list(map(_Seen, jobs, found))

    def _name(self, turn: Sequence[_Seen]) -> list[tuple[_Seen, sv.Detections]]:
        images, boxes = [each.job.image for each in turn], [each.boxes.xyxy for each in turn]
        return [
            (
                each,
                each.job.naming.detections(Regions(each.boxes, features, each.job.naming.lowest)),
            )
            for each, features in zip(turn, self._detector.encode(images, boxes), strict=True)
        ]


def _tried(waiting: Sequence[T], work: Callable[[Sequence[T]], list[R]]) -> list[R]:
    """Of what fails, each alone: whose fault it was is told, and nobody else."""
    try:
        return work(waiting) if waiting else []
    except Exception as error:  # noqa: BLE001  goes to whoever asked; the thread lives on
        if len(waiting) > 1:
            return [done for each in waiting for done in _tried([each], work)]
        (alone,) = waiting
        with suppress(InvalidStateError):  # cancelled meanwhile
            (alone.job if isinstance(alone, _Seen) else alone).answer.set_exception(error)
        return []
