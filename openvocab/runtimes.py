"""Libraries that run networks beside torch, without what they do to the process and to each other."""

import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import platformdirs

from openvocab.environment import environment_kept

__all__ = ["contained_ultralytics", "onnx_session", "onnxruntime", "openvino"]

SETTINGS = "settings.json"  # of Ultralytics


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


@contextmanager
def contained_ultralytics() -> Iterator[Any]:
    """Ultralytics, for one thread at a time, while the process is kept as it was."""
    with environment_kept(), _threads_kept():
        module = _load_ultralytics()
        with _nothing_installed(module.utils.checks), _nothing_noted(module.utils.SETTINGS):
            yield module


@contextmanager
def _threads_kept() -> Iterator[None]:
    """Ultralytics sets torch to all cores but one and OpenCV to none as it starts: undo it."""
    import cv2
    import torch

    torch_threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    try:
        yield
    finally:
        if torch.get_num_threads() != torch_threads:
            torch.set_num_threads(torch_threads)
        if cv2.getNumThreads() != cv2_threads:
            cv2.setNumThreads(cv2_threads)


@contextmanager
def _nothing_installed(checks: Any) -> Iterator[None]:  # noqa: ANN401
    """Ultralytics installs what a backend lacks by pip: not here, whoever imported it first."""
    before = checks.AUTOINSTALL
    checks.AUTOINSTALL = False
    try:
        yield
    finally:
        checks.AUTOINSTALL = before


@contextmanager
def _nothing_noted(settings: Any) -> Iterator[None]:  # noqa: ANN401
    """An export notes in the user's settings which hints it has given: not here."""
    before = settings.file_path
    settings.file_path = Path(os.devnull)
    try:
        yield
    finally:
        settings.file_path = before


def _load_ultralytics() -> Any:  # noqa: ANN401
    """Import Ultralytics without what its import does to the process.

    It asks the network whether it is there, installs packages when it misses one, writes its
    settings, sets OMP_NUM_THREADS and other variables, filters warnings, and replaces
    `torch.save`, `PIL.Image.open` (by one that installs a HEIF decoder when a file is no image)
    and the print options of torch and NumPy. A user who imported it first keeps what they have.
    """
    if "ultralytics" in sys.modules:
        return sys.modules["ultralytics"]
    import numpy as np
    import PIL.Image
    import torch

    torch_save, pil_open = torch.save, PIL.Image.open
    numpy_print, torch_print = np.get_printoptions(), vars(torch._tensor_str.PRINT_OPTS).copy()
    private = tempfile.TemporaryDirectory(prefix="openvocab-ultralytics-")
    quiet = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
    home = _ultralytics_home()
    try:
        copy = Path(private.name) / home.name
        copy.mkdir()
        with suppress(OSError):  # there may be none
            shutil.copy(home / SETTINGS, copy)
        with _threads_kept(), environment_kept(), warnings.catch_warnings():
            os.environ.update({"YOLO_CONFIG_DIR": private.name} | quiet)
            import ultralytics as module
            from ultralytics import YOLO  # noqa: F401  resolved lazily: resolve it now
        _settle(module.utils.SETTINGS, home)
    finally:
        torch.save, PIL.Image.open = torch_save, pil_open
        torch.set_printoptions(**torch_print)  # type: ignore[no-untyped-call]  # torch has no type for it
        np.set_printoptions(**numpy_print)
        private.cleanup()
    return module


def _ultralytics_home() -> Path:
    """Where the user's Ultralytics keeps its settings and fonts."""
    chosen = os.environ.get("YOLO_CONFIG_DIR")
    if chosen:
        return Path(chosen).expanduser() / "Ultralytics"
    return platformdirs.user_config_path("Ultralytics", appauthor=False, roaming=True)


def _settle(settings: Any, home: Path) -> None:  # noqa: ANN401
    """What the user sets from now on goes to their own file, which nothing has written to yet."""
    settings.file = settings.file_path = home / SETTINGS
    own = {"USER_CONFIG_DIR": home, "SETTINGS_FILE": home / SETTINGS}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "ultralytics":
            vars(module).update({key: own[key] for key in own.keys() & vars(module).keys()})
