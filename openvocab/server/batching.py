"""Requests that wait together go through the networks together; those too many are turned away."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import NamedTuple

import supervision as sv

from openvocab.classifier import Naming
from openvocab.detector import OpenVocabDetector
from openvocab.protocols import Image
from openvocab.server.errors import BusyError

__all__ = ["Batcher"]

POLL_S = 0.5  # between two looks whether to stop


class _Job(NamedTuple):
    image: Image
    naming: Naming
    answer: "Future[sv.Detections]"


class Batcher:
    """One thread runs the networks, for all requests, each with classes of its own.

    What has come meanwhile makes the next batch: nobody waits for company while the networks idle.
    """

    def __init__(
        self, detector: OpenVocabDetector, *, max_batch: int = 8, max_waiting: int = 32
    ) -> None:
        """Prepare; `start` starts it.

        Args:
            detector: whose networks run.
            max_batch: images.
            max_waiting: images that may wait beside the batch that runs.
        """
        self._detector, self._max_batch = detector, max_batch
        self._jobs: queue.Queue[_Job] = queue.Queue(max_waiting)
        self._stopped = threading.Event()
        self.told: Callable[[int], None] = lambda _: None
        """Told of the size of each batch."""
        self._thread = threading.Thread(target=self._run, name="openvocab-batches", daemon=True)

    def start(self) -> None:
        """From now on requests are answered."""
        self._thread.start()

    def submit(self, image: Image, naming: Naming) -> "Future[sv.Detections]":
        """Have an image looked at; a future that is cancelled before its turn costs nothing.

        Raises:
            BusyError: as many wait as may, or the server stops.
        """
        answer: Future[sv.Detections] = Future()
        if self._stopped.is_set():
            raise BusyError("The server stops; try another one.")
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
        while not (self._stopped.is_set() and self._jobs.empty()):
            jobs = [job for job in self._taken() if job.answer.set_running_or_notify_cancel()]
            if jobs:
                self.told(len(jobs))
                self._answer(jobs)

    def _taken(self) -> list[_Job]:
        """What waits, as much as a batch holds."""
        jobs: list[_Job] = []
        with suppress(queue.Empty):
            jobs.append(self._jobs.get(timeout=POLL_S))
            while len(jobs) < self._max_batch:
                jobs.append(self._jobs.get_nowait())
        return jobs

    def _answer(self, jobs: list[_Job]) -> None:
        """Of a batch that fails, each alone: whose fault it was is told, and nobody else."""
        try:
            lowest = [job.naming.lowest for job in jobs]
            seen = self._detector.see([job.image for job in jobs], lowest)
        except Exception as error:  # noqa: BLE001  goes to whoever asked; the thread lives on
            if len(jobs) == 1:
                jobs[0].answer.set_exception(error)
                return
            for job in jobs:
                self._answer([job])
            return
        for job, regions in zip(jobs, seen, strict=True):
            try:
                found = job.naming.detections(regions)
            except Exception as error:  # noqa: BLE001  likewise
                job.answer.set_exception(error)
            else:
                job.answer.set_result(found)
