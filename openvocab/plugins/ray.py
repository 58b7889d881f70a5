"""Many pictures, or many requests, on many cores and machines, with Ray.

`OpenVocabStage` is a stage for Ray Data, `run` is the engine of `openvocab batch --engine ray`, and
`application` is the server for Ray Serve.
"""

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from openvocab._internal.environment import LOOPBACK_HOSTS, preserve_environ
from openvocab.config import Preset, load_preset
from openvocab.errors import OpenVocabError
from openvocab.plugins.parquet import Chunk, StoragePath, Worker

if TYPE_CHECKING:
    from openvocab.server.service import Settings


def run(
    work: Sequence[Chunk], out: StoragePath, arguments: dict[str, Any], workers: int
) -> Iterator[int]:
    """Distribute chunks over workers; yields the number of files of each chunk as it is done.

    Joins the cluster that Ray finds (`RAY_ADDRESS`), or starts one on this machine.

    Args:
        work: the chunks.
        out: where each part is written.
        arguments: keyword arguments of `OpenVocabStage`.
        workers: number of processes, which share the cores evenly.
    """
    with preserve_environ():
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # else it reports each start to Anyscale
        import ray

        started = not ray.is_initialized()
        if started:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        workers, cores = _shares(
            [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]],
            min(workers, len(work)),
        )
        remote = ray.remote(num_cpus=cores, max_restarts=-1, max_task_retries=-1)(Worker)
        idle = [remote.remote(out, arguments) for _ in range(workers)]
        yield from _shared(ray, idle, work)
    finally:
        if started:
            ray.shutdown()


def _shares(machines: Sequence[int], workers: int) -> tuple[int, int]:
    """How many workers fit, and cores for each; Ray would wait for ever for one that does not.

    >>> _shares([16], 2), _shares([3, 3, 3, 3], 5), _shares([1, 1], 4)
    ((2, 8), (5, 1), (2, 1))
    """
    workers = min(workers, max(sum(machines), 1))
    cores = max(machines)
    while cores > 1 and sum(each // cores for each in machines) < workers:
        cores -= 1
    return workers, max(cores, 1)


def application(
    preset: str | Preset = "starter",
    settings: "Settings | None" = None,
    *,
    device: str | None = None,
    **options: Any,  # noqa: ANN401  Ray Serve's
) -> Any:  # noqa: ANN401  ray.serve.Application
    """The server of `openvocab serve`, for Ray Serve: `serve.run(application())`.

    Each replica has its own networks, queue and limits, and knows nothing of the others: stored
    vocabularies and streams belong to the replica that was asked for them. With more than one
    replica, send the classes with each request (words that a replica knows cost only a detect_table-up).

    Args:
        preset: a name, a .toml file, or a `Preset`. Loaded here, so replicas do not need the file.
        settings: for each replica. None uses the defaults, and accepts only requests addressed to
            this machine by its local names, as Ray Serve listens there. Behind a load balancer,
            give `openvocab.server.app.Settings` a token, or the `hosts` it is called by.
        device: as for `OpenVocabDetector.from_preset`.
        options: for `ray.serve.deployment`: num_replicas, ray_actor_options, autoscaling_config,
            ...

    Raises:
        ConfigError: there is no such preset, or it cannot be read.
    """
    from ray import serve

    from openvocab.server.routes import LISTENERS
    from openvocab.server.service import Settings

    settings = settings or Settings(hosts=LOOPBACK_HOSTS)
    # Ray's default is 5; how many may wait is up to the server's own queue, with its 429.
    inside = settings.max_waiting + settings.max_batch + LISTENERS
    chosen = load_preset(preset)

    def build() -> Any:  # noqa: ANN401  a FastAPI
        from openvocab.detector import OpenVocabDetector
        from openvocab.server import app

        return app.build(OpenVocabDetector.from_preset(chosen, device=device), settings)

    given = {"name": "openvocab", "max_ongoing_requests": inside} | options
    return serve.deployment(**given)(serve.ingress(build)()).bind()


def _shared(ray: Any, idle: list[Any], work: Sequence[Chunk]) -> Iterator[int]:  # noqa: ANN401
    """Give each worker the next chunk when it has finished one."""
    waiting, running = list(reversed(work)), dict[Any, Any]()
    while waiting or running:
        while waiting and idle:
            worker = idle.pop()
            running[worker.do.remote(waiting.pop())] = worker
        (ready, *_), _ = ray.wait(list(running))
        idle.append(running.pop(ready))
        try:
            yield ray.get(ready)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, OpenVocabError):
                raise error.cause from None  # the error itself, without Ray's traceback
            raise
