"""Many pictures on many cores and machines, by Ray.

For Ray Data, `OpenVocabStage` is a stage; `run` is the engine of `openvocab batch --engine ray`.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from openvocab.batch import Chunk, OpenVocabStage, Place, Worker
from openvocab.environment import environment_kept

__all__ = ["OpenVocabStage", "run"]


def run(
    work: Sequence[Chunk], out: Place, arguments: dict[str, Any], workers: int
) -> Iterator[int]:
    """Have chunks done by so many workers; gives the number of files of each as it is done.

    Joins the cluster that Ray finds (`RAY_ADDRESS`), or starts one on this machine.

    Args:
        work: chunks.
        out: where each part goes.
        arguments: of `OpenVocabStage`.
        workers: processes; they share the cores evenly.
    """
    with environment_kept():
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # else it tells Anyscale of each start
        import ray

        started = not ray.is_initialized()
        if started:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        cores = max(int(ray.cluster_resources().get("CPU", 1)) // workers, 1)
        remote = ray.remote(num_cpus=cores, max_restarts=-1, max_task_retries=-1)(Worker)
        idle = [remote.remote(out, arguments) for _ in range(min(workers, len(work)))]
        yield from _shared(ray, idle, work)
    finally:
        if started:
            ray.shutdown()


def _shared(ray: Any, idle: list[Any], work: Sequence[Chunk]) -> Iterator[int]:  # noqa: ANN401
    """Each worker takes the next chunk when it is done with one."""
    waiting, running = list(reversed(work)), dict[Any, Any]()
    while waiting or running:
        while waiting and idle:
            worker = idle.pop()
            running[worker.do.remote(waiting.pop())] = worker
        (ready, *_), _ = ray.wait(list(running))
        idle.append(running.pop(ready))
        yield ray.get(ready)
