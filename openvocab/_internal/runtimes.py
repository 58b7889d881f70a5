"""Ultralytics, ONNX Runtime and OpenVINO, imported without side effects on the process."""

import errno
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import platformdirs

from openvocab._internal.environment import preserve_environ

SETTINGS = "settings.json"  # of Ultralytics


def onnxruntime() -> ModuleType:
    """ONNX Runtime, imported without its telemetry."""
    with preserve_environ():
        # Read on import; without it, ONNX Runtime creates a device id and uploads events.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime as module
    return module


def onnx_session(path: Path, threads: int) -> Any:  # noqa: ANN401  it ships no types
    """Load a model on the CPU, with threads that sleep between runs.

    By default they spin while they wait for the next run, and take a core from the network that
    runs in between: on two cores, that makes an encoder 1.5 times slower.
    """
    module = onnxruntime()
    options = module.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3  # errors
    return module.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def openvino() -> ModuleType:
    """OpenVINO, imported without its telemetry, which reports every model it reads to Google."""
    with preserve_environ():  # its lock also keeps other imports out while `sys.modules` is changed
        if "openvino" not in sys.modules:
            before = sys.modules.get("openvino_telemetry")
            sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # makes the import fail
            try:
                import openvino  # noqa: F401  returned from sys.modules
            finally:
                del sys.modules["openvino_telemetry"]
                if before is not None:
                    sys.modules["openvino_telemetry"] = before
    return sys.modules["openvino"]


@contextmanager
def isolated_ultralytics() -> Iterator[Any]:
    """Use Ultralytics in one thread at a time, and leave the process as it was."""
    with preserve_environ(), _preserve_threads() as threads, _no_subprocesses():
        module = _load_ultralytics()
        utils = module.utils
        with (
            # Even if the user imported it with this on.
            _replaced(utils.checks, AUTOINSTALL=False),
            # An export would record in the user's settings which hints it has shown.
            _replaced(utils.SETTINGS, file_path=Path(os.devnull)),
            # A network would get a thread for each core but one, and hang in a forked child, where
            # GNU OpenMP waits for the parent's threads.
            _replaced(utils.torch_utils, NUM_THREADS=threads),
        ):
            yield module


@contextmanager
def _preserve_threads() -> Iterator[int]:
    """Restore the thread counts that Ultralytics sets: torch's to all cores but one, OpenCV's to 0.

    Yields torch's.
    """
    import cv2
    import torch

    torch_threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    try:
        yield torch_threads
    finally:
        if torch.get_num_threads() != torch_threads:
            torch.set_num_threads(torch_threads)
        if cv2.getNumThreads() != cv2_threads:
            cv2.setNumThreads(cv2_threads)


@contextmanager
def _no_subprocesses() -> Iterator[None]:
    """Make every command that this thread starts fail as if it were not installed.

    Ultralytics looks for Intel hardware with `xpu-smi` where the CPU's name does not mention Intel,
    asks `uname` where /proc/cpuinfo has no name (on ARM), and installs with `pip`, `uv` and `apt`.
    """
    owner, original_init = threading.get_ident(), subprocess.Popen.__init__

    def guarded_init(process: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        if threading.get_ident() == owner:
            raise FileNotFoundError(errno.ENOENT, "Ultralytics may not start a process")
        original_init(process, *args, **kwargs)

    uname = vars(platform.uname())  # caches the processor's name, which stays unknown here
    processor_cached = "processor" in uname
    subprocess.Popen.__init__ = guarded_init  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        subprocess.Popen.__init__ = original_init  # type: ignore[method-assign]
        if not processor_cached:
            uname.pop("processor", None)


@contextmanager
def _replaced(target: Any, **attributes: object) -> Iterator[None]:  # noqa: ANN401
    before = {name: getattr(target, name) for name in attributes}
    for name, value in attributes.items():
        setattr(target, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(target, name, value)


def _load_ultralytics() -> Any:  # noqa: ANN401
    """Import Ultralytics without the import's side effects.

    It probes the network, installs missing packages, writes its settings, sets OMP_NUM_THREADS and
    other variables, filters warnings, and replaces `torch.save`, `PIL.Image.open` (with one that
    installs a HEIF decoder if a file is not an image) and the print options of torch and NumPy. If
    the user has imported it already, everything stays as they have it.
    """
    if "ultralytics" in sys.modules:
        return sys.modules["ultralytics"]
    import numpy as np
    import PIL.Image
    import torch

    torch_save, pil_open = torch.save, PIL.Image.open
    numpy_options, torch_options = np.get_printoptions(), vars(torch._tensor_str.PRINT_OPTS).copy()
    private = tempfile.TemporaryDirectory(prefix="openvocab-ultralytics-")
    offline = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
    config_dir = _ultralytics_config_dir()
    try:
        copy = Path(private.name) / config_dir.name
        copy.mkdir()
        with suppress(OSError):  # the user may have none
            shutil.copy(config_dir / SETTINGS, copy)
        with preserve_environ(), warnings.catch_warnings():
            os.environ.update({"YOLO_CONFIG_DIR": private.name} | offline)
            import ultralytics as module
            from ultralytics import YOLO  # noqa: F401  resolved lazily: resolve it now
        _restore_config_dir(module.utils.SETTINGS, config_dir)
    finally:
        torch.save, PIL.Image.open = torch_save, pil_open
        torch.set_printoptions(**torch_options)  # type: ignore[no-untyped-call]  # torch has no type for it
        np.set_printoptions(**numpy_options)
        private.cleanup()
    return module


def _ultralytics_config_dir() -> Path:
    """The folder of the user's Ultralytics settings and fonts."""
    configured = os.environ.get("YOLO_CONFIG_DIR")
    if configured:
        return Path(configured).expanduser() / "Ultralytics"
    return platformdirs.user_config_path("Ultralytics", appauthor=False, roaming=True)


def _restore_config_dir(settings: Any, config_dir: Path) -> None:  # noqa: ANN401
    """Point Ultralytics back to the user's own settings file, which the import left untouched."""
    settings.file = settings.file_path = config_dir / SETTINGS
    paths = {"USER_CONFIG_DIR": config_dir, "SETTINGS_FILE": config_dir / SETTINGS}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "ultralytics":
            vars(module).update({key: paths[key] for key in paths.keys() & vars(module).keys()})
