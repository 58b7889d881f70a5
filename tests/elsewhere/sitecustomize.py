"""Makes Python believe that it runs on another machine; see `run` beside this file.

Only what Python code asks for changes. Native code still uses the real processor and its cores.
"""

import io
import os
import pathlib
import platform
from typing import Any

CORES = 5  # unlike any common machine
CPU_INFO = "".join(f"processor\t: {core}\nCPU implementer\t: 0x41\n\n" for core in range(CORES))

_open_path = pathlib.Path.open


def _open(self: pathlib.Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
    if str(self) == "/proc/cpuinfo":
        return io.BytesIO(CPU_INFO.encode()) if "b" in mode else io.StringIO(CPU_INFO)
    return _open_path(self, mode, *args, **kwargs)


pathlib.Path.open = _open
os.cpu_count = lambda: CORES
os.sched_getaffinity = lambda _: set(range(CORES))
platform.machine = lambda: "aarch64"
platform.processor = lambda: "Neoverse-N1"
