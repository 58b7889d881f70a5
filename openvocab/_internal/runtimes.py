"""Libraries besides torch that run networks, without their side effects on the process."""

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

from openvocab._internal.environment import preserve_environ

SETTINGS = "settings.json"  # Ultralytics' own


def onnxruntime() -> ModuleType:
    """ONNX Runtime, imported without its telemetry."""
    with preserve_environ():
        # Read on import; without it, a device id is made and events are uploaded.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime as module
    return module


def onnx_session(path: Path, threads: int) -> Any:  # noqa: ANN401  it ships no types
    """Load a model on the CPU, with threads that rest between runs.

    By default they spin while they wait for the next run, and take a core from the network that
    runs in between: on two cores, an encoder takes half as long again beside such a detector.
    """
    module = onnxruntime()
    options = module.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3  # errors
    return module.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def openvino() -> ModuleType:
    """OpenVINO, imported without its telemetry, which reports every model it reads to Google."""
    with preserve_environ():  # one thread at a time
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
def isolated_ultralytics() -> Iterator[Any]:
    """Use Ultralytics, one thread at a time, and leave the process as it was."""
    with preserve_environ(), _threads_kept():
        module = _load_ultralytics()
        with _nothing_installed(module.utils.checks), _nothing_noted(module.utils.SETTINGS):
            yield module


@contextmanager
def _threads_kept() -> Iterator[None]:
    """Undo what Ultralytics sets on start: all cores but one for torch, no threads for OpenCV."""
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
    """Keep Ultralytics from installing missing packages with pip, even if the user imported it."""
    before = checks.AUTOINSTALL
    checks.AUTOINSTALL = False
    try:
        yield
    finally:
        checks.AUTOINSTALL = before


@contextmanager
def _nothing_noted(settings: Any) -> Iterator[None]:  # noqa: ANN401
    """Keep an export from recording in the user's settings which hints it has given."""
    before = settings.file_path
    settings.file_path = Path(os.devnull)
    try:
        yield
    finally:
        settings.file_path = before


def _load_ultralytics() -> Any:  # noqa: ANN401
    """Import Ultralytics without what its import does to the process.

    It probes the network, installs missing packages, writes its settings, sets OMP_NUM_THREADS and
    other variables, filters warnings, and replaces `torch.save`, `PIL.Image.open` (with one that
    installs a HEIF decoder if a file is no image) and the print options of torch and NumPy. If the
    user has imported it already, everything stays as they have it.
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
        with suppress(OSError):  # there may not be one
            shutil.copy(home / SETTINGS, copy)
        with _threads_kept(), preserve_environ(), warnings.catch_warnings():
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
    """The folder of the user's Ultralytics settings and fonts."""
    chosen = os.environ.get("YOLO_CONFIG_DIR")
    if chosen:
        return Path(chosen).expanduser() / "Ultralytics"
    return platformdirs.user_config_path("Ultralytics", appauthor=False, roaming=True)


def _settle(settings: Any, home: Path) -> None:  # noqa: ANN401
    """From now on, save the user's settings to their own file, which is still untouched."""
    settings.file = settings.file_path = home / SETTINGS
    own = {"USER_CONFIG_DIR": home, "SETTINGS_FILE": home / SETTINGS}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "ultralytics":
            vars(module).update({key: own[key] for key in own.keys() & vars(module).keys()})
