"""Serves openvocab over HTTP from several processes or machines with Ray Serve.

pip install ".[ray,serve]"
python examples/ray_serve.py --replicas 2 --cores 1
"""

import argparse
import os
import signal
import threading
from contextlib import suppress

from ray import serve

from openvocab.plugins.ray import application


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--cores", type=float, default=1, help="of each replica")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports each start
    serve.start(http_options={"port": arguments.port})
    cores = {"num_cpus": arguments.cores}  # {"num_gpus": 1} where there are GPUs
    serve.run(application(num_replicas=arguments.replicas, ray_actor_options=cores))
    print(f"serving at http://127.0.0.1:{arguments.port}/v1/detect", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        threading.Event().wait()
    serve.shutdown()


if __name__ == "__main__":
    main()
