"""Makes Python believe that it runs on another machine; see `run` beside this file.

Only what Python code asks for changes. Native code still uses the real processor and its cores.
"""

import io
import os
import pathlib
import platform
from typing import Any

CORES = 5  # unlike any common machine
CPU = "Elsewhere 9000"  # neither Intel nor AMD
CPU_INFO = "".join(f"processor\t: {core}\nmodel name\t: {CPU}\n\n" for core in range(CORES))

_open_path = pathlib.Path.open


def _open(self: pathlib.Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
    if str(self) == "/proc/cpuinfo":
        return io.BytesIO(CPU_INFO.encode()) if "b" in mode else io.StringIO(CPU_INFO)
    return _open_path(self, mode, *args, **kwargs)


pathlib.Path.open = _open
os.cpu_count = lambda: CORES
os.sched_getaffinity = lambda _: set(range(CORES))
platform.processor = lambda: CPU
