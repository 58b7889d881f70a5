"""Many images or requests, on many cores and machines, with Ray.

`OpenVocabStage` is a stage for Ray Data, `run` is the engine of `openvocab parquet --engine ray`, and
`application` is the server for Ray Serve.
"""

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from openvocab._internal.environment import LOOPBACK_HOSTS, preserve_environ
from openvocab.config import Preset, load_preset
from openvocab.errors import OpenVocabError
from openvocab.plugins._parquet import Chunk, OpenVocabStage, StoragePath, Worker

if TYPE_CHECKING:
    from openvocab.server import Settings

__all__ = ["OpenVocabStage", "application"]


def run(
    chunks: Sequence[Chunk], out: StoragePath, arguments: dict[str, Any], workers: int
) -> Iterator[int]:
    """Distribute chunks over workers; yields the number of files of each chunk as it is done.

    Joins the cluster that Ray finds (`RAY_ADDRESS`), or starts one on this machine.

    Args:
        chunks: chunks of files.
        out: folder to write one Parquet file per chunk to.
        arguments: keyword arguments of `OpenVocabStage`.
        workers: number of processes, which share the cores evenly.

    Raises:
        OpenVocabError: a worker raised it.
    """
    with preserve_environ():
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # else it reports each start to Anyscale
        import ray
        from ray.util import ActorPool

        started = not ray.is_initialized()
        if started:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        workers, cores = _allocate_cores(
            [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]],
            min(workers, len(chunks)),
        )
        actor = ray.remote(num_cpus=cores, max_restarts=-1, max_task_retries=-1)(Worker)
        pool = ActorPool([actor.remote(out, arguments) for _ in range(workers)])
        yield from pool.map_unordered(lambda worker, chunk: worker.do.remote(chunk), chunks)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, OpenVocabError):
            raise error.cause from None  # the error itself, without Ray's traceback
        raise
    finally:
        if started:
            ray.shutdown()


def _allocate_cores(machines: Sequence[int], workers: int) -> tuple[int, int]:
    """How many workers fit, and cores per worker; Ray would wait forever for one that does not.

    >>> _allocate_cores([16], 2), _allocate_cores([3, 3, 3, 3], 5), _allocate_cores([1, 1], 4)
    ((2, 8), (5, 1), (2, 1))
    """
    workers = min(workers, max(sum(machines), 1))
    cores = max(machines)
    while cores > 1 and sum(machine // cores for machine in machines) < workers:
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

    Each replica has its own networks, queue and limits, and shares nothing with the others: stored
    vocabularies and streams belong to the replica that got the request. With more than one
    replica, send the classes with each request (a replica caches the words that it has encoded).

    Args:
        preset: a name, a .toml file, or a `Preset`. Loaded here, so replicas do not need the file.
        settings: for each replica. None uses the defaults, and accepts only requests for the
            loopback names of this machine, where Ray Serve listens. Behind a load balancer, set
            the `token` of `openvocab.server.Settings`, or its `hosts`.
        device: as for `OpenVocabDetector.from_preset`.
        options: for `ray.serve.deployment`: num_replicas, ray_actor_options, autoscaling_config,
            ...

    Raises:
        ConfigError: there is no such preset, or it cannot be read.
    """
    from ray import serve

    from openvocab.server import Settings
    from openvocab.server._routes import MAX_LISTENERS

    settings = settings or Settings(hosts=LOOPBACK_HOSTS)
    # Ray's default is 5; the server's own queue limits the requests, with its 429.
    max_requests = settings.max_waiting + settings.max_batch + MAX_LISTENERS
    loaded_preset = load_preset(preset)

    def build() -> Any:  # noqa: ANN401  a FastAPI
        from openvocab.detector import OpenVocabDetector
        from openvocab.server import create_app

        detector = OpenVocabDetector.from_preset(loaded_preset, device=device)
        return create_app(detector, settings)

    options = {"name": "openvocab", "max_ongoing_requests": max_requests} | options
    return serve.deployment(**options)(serve.ingress(build)()).bind()
