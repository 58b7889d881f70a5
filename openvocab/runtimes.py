"""Runtimes of networks outside torch, without what they do to the process and to each other."""

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from openvocab.environment import environment_kept

__all__ = ["onnx_session", "onnxruntime", "openvino"]


def onnxruntime() -> ModuleType:
    """ONNX Runtime, imported without its telemetry."""
    with environment_kept():
        # Read as it is imported; else it makes a device id and uploads events.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime as module
    return module


def onnx_session(path: Path, threads: int) -> Any:  # noqa: ANN401  it ships no types
    """A model on the CPU whose threads rest between two runs.

    By default they spin for the next run, and take the core from the network that runs in between:
    an encoder takes half as long again beside such a detector, on two cores.
    """
    module = onnxruntime()
    options = module.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3  # errors
    return module.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def openvino() -> ModuleType:
    """OpenVINO, imported without its telemetry: it tells Google of every model that it reads."""
    with environment_kept():  # one thread at a time
        if "openvino" not in sys.modules:
            before = sys.modules.get("openvino_telemetry")
            sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # not importable
            try:
                import openvino  # noqa: F401  looked up below
            finally:
                del sys.modules["openvino_telemetry"]
                if before is not None:
                    sys.modules["openvino_telemetry"] = before
    return sys.modules["openvino"]
