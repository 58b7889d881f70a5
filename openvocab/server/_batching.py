"""Runs the networks in one thread for all requests, several images at a time."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from openvocab.detector import OpenVocabDetector
from openvocab.server._errors import ShuttingDownError
from openvocab.types import EncodedRegions, Image, Proposals

T = TypeVar("T")

Sizes: TypeAlias = tuple[int | None, int | None]
"""Input size and tile size of the proposer, as `OpenVocabDetector.with_sizes` takes them."""

MAX_BOXES = 128  # encoded per batch, besides those of its oldest image, which may have any number


@dataclass(eq=False, slots=True)
class _Job:
    """One image, with what its request wants to know of it."""

    image: Image
    min_objectness: float
    sizes: Sizes
    classify: Callable[[EncodedRegions], Any]
    future: "Future[Any]"
    proposals: Proposals | None = None

    @property
    def boxes(self) -> int:
        return 0 if self.proposals is None else len(self.proposals)


class Batcher:
    """Batches images that wait at the same time, each with the classes of its own request.

    Images that arrive while the networks run make the next batch, so none waits for others while
    the networks are idle. Each batch holds the oldest image and those with the fewest boxes:
    low-threshold requests, which have hundreds of boxes, cannot starve others.
    """

    def __init__(self, detector: OpenVocabDetector, *, max_batch: int = 8) -> None:
        """Prepare; `start` starts the thread.

        Args:
            detector: detector whose networks are run.
            max_batch: images, at most, whose proposals are known and not yet classified.
        """
        self._detector, self._max_batch = detector, max_batch
        self._queued: list[_Job] = []  # without proposals, oldest first
        self._proposed: list[_Job] = []  # with proposals, oldest first
        self._stopped = False
        self._changed = threading.Condition()
        self.on_batch: Callable[[int], None] = lambda _: None
        """Called with the number of images in each batch."""
        self._thread = threading.Thread(target=self._run, name="openvocab-batches", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(
        self,
        image: Image,
        min_objectness: float,
        classify: Callable[[EncodedRegions], T],
        sizes: Sizes = (None, None),
    ) -> "Future[T]":
        """Queue an image; a future that is cancelled before its turn costs nothing.

        Args:
            image: BGR.
            min_objectness: the lowest objectness that is wanted.
            classify: called with the encoded regions in the thread; what it returns is the result.
            sizes: other sizes of the proposer than the detector's.

        Raises:
            ShuttingDownError: the server is shutting down.
        """
        job = _Job(image, min_objectness, sizes, classify, Future())
        with self._changed:
            if self._stopped:
                raise ShuttingDownError("The server is shutting down; try another one.")
            self._queued.append(job)
            self._changed.notify()
        return job.future

    @property
    def waiting(self) -> int:
        """How many images are waiting, with or without proposals."""
        with self._changed:
            return len(_pending([*self._queued, *self._proposed]))

    @property
    def alive(self) -> bool:
        """Whether submitted images will be answered."""
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
                self._changed.wait_for(lambda: self._queued or self._proposed or self._stopped)
                if not (self._queued or self._proposed):
                    return
                new = self._dequeue()
            _run_isolated(self._propose, new)
            self._proposed = _pending([*self._proposed, *new])
            batch = self._next_batch()
            if batch:
                self.on_batch(len(batch))
            _run_isolated(self._classify, batch)
            self._proposed = _pending(self._proposed)

    def _dequeue(self) -> list[_Job]:
        """The oldest image, and those with the highest thresholds, as many as there is room for."""
        queued = _pending(self._queued)
        room = self._max_batch - len(self._proposed)
        oldest = queued[: room > 1]
        others = sorted(queued[len(oldest) :], key=lambda job: -job.min_objectness)
        taken = [*oldest, *others][:room]
        self._queued = [job for job in queued if job not in taken]
        return taken

    def _next_batch(self) -> list[_Job]:
        """The oldest image with proposals, and those with the fewest boxes."""
        batch, room = self._proposed[:1], MAX_BOXES
        for job in sorted(self._proposed[1:], key=lambda job: job.boxes):
            room -= job.boxes
            if room < 0:
                break
            batch.append(job)
        return batch

    def _propose(self, jobs: Sequence[_Job]) -> None:
        for sizes in dict.fromkeys(job.sizes for job in jobs):
            same = [job for job in jobs if job.sizes == sizes]
            lowest = [job.min_objectness for job in same]
            detector = self._detector.with_sizes(*sizes)
            proposals = detector.propose([job.image for job in same], lowest)
            for job, proposed in zip(same, proposals, strict=True):
                job.proposals = proposed

    def _classify(self, jobs: Sequence[_Job]) -> None:
        proposals = [job.proposals for job in jobs if job.proposals is not None]
        encoded = self._detector.encode([job.image for job in jobs], proposals)
        for job, regions in zip(jobs, encoded, strict=True):
            result = job.classify(regions)
            with suppress(InvalidStateError):  # cancelled just now
                job.future.set_result(result)


def _pending(jobs: Sequence[_Job]) -> list[_Job]:
    """The jobs that somebody still waits for."""
    return [job for job in jobs if not job.future.done()]


def _run_isolated(step: Callable[[Sequence[_Job]], None], jobs: Sequence[_Job]) -> None:
    """Run a step for jobs together; if it fails, one by one, so that only some get the error."""
    if not jobs:
        return
    try:
        step(jobs)
    except Exception as error:  # noqa: BLE001  goes to the client; the thread continues
        if len(jobs) == 1:
            with suppress(InvalidStateError):  # cancelled just now
                jobs[0].future.set_exception(error)
            return
        for job in _pending(jobs):
            _run_isolated(step, [job])
