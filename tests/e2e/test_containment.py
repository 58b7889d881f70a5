"""A detection or an export leaves the process unchanged and sends nothing to the network.

Every program runs in its own process, under an audit hook (PEP 578), which the interpreter calls for
every socket, process and file that any library opens.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest

from openvocab._internal.environment import preserve_environ

WATCH = """
import os, sys
events = []
WATCHED = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto",
           "os.system", "os.posix_spawn", "subprocess.Popen", "os.exec", "os.fork", "os.forkpty"}
def watch(event, arguments):
    if event in WATCHED:
        events.append((event, str(arguments)[:200]))
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        path = str(arguments[0])
        # A file opened by descriptor has been reported by its path before.
        if not path.startswith(("/dev/null", TEMP)) and not isinstance(arguments[0], int):
            events.append((event, path))
"""

# What Linux reports on ARM: no "model name". Ultralytics then asks `uname` for the CPU's name, and
# `xpu-smi` for an Intel GPU, because the name does not mention Intel; the latter also on AMD.
ARM = """
import io, pathlib
open_path = pathlib.Path.open
def open_fake(self, *args, **kwargs):
    if str(self) == "/proc/cpuinfo":
        return io.StringIO("processor\\t: 0\\nBogoMIPS\\t: 243.75\\nCPU implementer\\t: 0x41\\n")
    return open_path(self, *args, **kwargs)
pathlib.Path.open = open_fake
"""

DETECT = """
import PIL.Image
import cv2, torch  # OpenCV sets variables for its Qt windows on import
before = dict(os.environ)
torch.set_printoptions(precision=2)
save, pil_open, threads = torch.save, PIL.Image.open, torch.get_num_threads()
rng_state = torch.get_rng_state()
sys.addaudithook(watch)
from openvocab import detect
detections = detect(PHOTO, ["bus", "person"])
assert len(detections) >= 4, detections
assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())
assert torch._tensor_str.PRINT_OPTS.precision == 2
assert torch.save is save and PIL.Image.open is pil_open
assert torch.equal(torch.get_rng_state(), rng_state)
import logging
assert logging.root.handlers == [], "the program's own basicConfig would do nothing"
assert torch.get_num_threads() == threads == THREADS, (torch.get_num_threads(), threads)
import threading
print(events, [thread.name for thread in threading.enumerate() if thread.daemon])
"""

USER_FIRST = """
import ultralytics
from ultralytics.utils import checks
from openvocab.errors import ModelError
from openvocab.proposers import UltralyticsProposer
checks.AUTOINSTALL = True
sys.addaudithook(watch)
for suffix in ("engine", "mnn", "pt", "torchscript", "tflite", "mlpackage"):
    path = TEMP + "/broken." + suffix
    open(path, "wb").write(b"no model")
    try:
        UltralyticsProposer(path, trust_pickle=True)
    except ModelError as error:
        assert path in str(error)
    else:
        raise SystemExit(path + " was loaded")
assert checks.AUTOINSTALL is True
from openvocab.io import load_image
from openvocab.errors import ImageError
try:
    load_image(b"not an image")
except ImageError:
    pass
print([event for event in events if event[0] != "open"], [])
"""

# Ultralytics would give torch one thread less than there are cores, which needs more than two.
FORK = """
import multiprocessing
os.cpu_count = lambda: 5
from openvocab import OpenVocabDetector
def detect(counts):
    counts.put(len(OpenVocabDetector.from_preset().detect(PHOTO, ["bus", "person"])))
fork = multiprocessing.get_context("fork")
counts = fork.SimpleQueue()
BEFORE
child = fork.Process(target=detect, args=[counts], daemon=True)
child.start()
child.join(100)
assert child.exitcode == 0, child.exitcode
assert counts.get() >= 4
print("[]", [])
"""

SETTINGS = """
import json
from pathlib import Path
home = Path(HOME) / ".config/Ultralytics"
def once():
    from openvocab import weights
    from openvocab.proposers import UltralyticsProposer
    UltralyticsProposer(weights.resolve("starter-detector"))
    from ultralytics import settings
    from ultralytics.utils import SETTINGS_FILE, checks
    assert SETTINGS_FILE == home / "settings.json" and checks.USER_CONFIG_DIR == home
    return settings
settings = once()
assert not home.exists()
settings.update({"runs_dir": "/mine"})
assert json.loads((home / "settings.json").read_text())["runs_dir"] == "/mine"
before = (home / "settings.json").read_bytes()
for name in [name for name in sys.modules if name.split(".")[0] == "ultralytics"]:
    del sys.modules[name]
from openvocab._internal.runtimes import isolated_ultralytics
with isolated_ultralytics() as ultralytics:
    assert ultralytics.settings["runs_dir"] == "/mine"
assert (home / "settings.json").read_bytes() == before
assert not [name for name in os.listdir(TEMP) if name.startswith("openvocab")]
print("[]", [])
"""


TOGETHER = """
from concurrent.futures import ThreadPoolExecutor
from openvocab import OpenVocabDetector
before = dict(os.environ)
with ThreadPoolExecutor(4) as pool:
    detectors = list(pool.map(lambda _: OpenVocabDetector.from_preset(), range(4)))
    counts = list(pool.map(lambda it: len(it.detect(PHOTO, ["bus", "person"])), detectors))
assert len(set(counts)) == 1 and counts[0] >= 4, counts
import torch
assert torch.get_num_threads() == THREADS
assert "OMP_NUM_THREADS" not in os.environ
print("[]", [])
"""

OPENVINO = """
import os, sys
sys.addaudithook(watch)
from openvocab._internal.runtimes import openvino
from openvocab.weights import resolve
openvino().Core().read_model(resolve("starter-encoder") / "image.onnx")
assert "openvino_telemetry" not in sys.modules
print(events, [])
"""

REST = """
import time
import numpy as np
from openvocab import OpenVocabDetector
from openvocab.io import load_image
from openvocab._internal.threads import matmul_nt
detector, image = OpenVocabDetector.from_preset(), load_image(PHOTO)
classes = ["bus", "person", *(f"thing {number}" for number in range(500))]
rng = np.random.default_rng(0)
few, many = rng.random((1, 384)), rng.random((300, 384))
calls = {
    "detect": lambda: detector.detect(image, classes, score_threshold=0.05),
    "matmul_nt": lambda: (matmul_nt(few, many), matmul_nt(many, many)),
}
for name, call in calls.items():
    call()
    time.sleep(0.2)
    spinning_s = []
    for _ in range(5):
        call()
        before = time.process_time()
        time.sleep(0.05)
        spinning_s.append(time.process_time() - before)
    assert sorted(spinning_s)[2] < 0.01, (name, spinning_s)
print("[]", [])
"""

EXPORT = """
sys.path.insert(0, TESTS)
from pathlib import Path
from bundles import OPENAI, SMALL, export_bundle, save_bundle
import torch
before = dict(os.environ)
folder = save_bundle(Path(TEMP) / "bundle", SMALL, OPENAI)
sys.addaudithook(watch)
for kind in (("onnx", "int8"), ("openvino", "bf16")):
    export_bundle(folder, *kind)
assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())
assert "openvino_telemetry" not in sys.modules
print(events, [])
"""

EXPORT_DETECTOR = """
import platform
from pathlib import Path
import numpy as np
from openvocab.export._detector import export_detector
from openvocab.proposers import UltralyticsProposer
before = dict(os.environ)
sys.addaudithook(watch)
paths = [Path(CHECKPOINT)]
for runtime in ("onnx", "openvino"):
    paths.append(export_detector(paths[0], runtime, "fp32", out=Path(TEMP), image_size=64, trust_pickle=True))
for path in paths:
    UltralyticsProposer(path, trust_pickle=True, device="cpu").propose([np.zeros((64, 64, 3), np.uint8)])
assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())
print(events, [])
assert platform.processor() == PROCESSOR  # asks `uname -p` again
"""


# Variables of the caller's shell that change what these programs measure.
CALLER = {
    "COVERAGE_PROCESS_CONFIG",
    "OMP_NUM_THREADS",
    "YOLO_CONFIG_DIR",
    "XDG_CONFIG_HOME",
    "XDG_CACHE_HOME",
    "XDG_DATA_HOME",
}


def python(code: str, **environment: str) -> str:
    kept = {key: value for key, value in os.environ.items() if key not in CALLER}
    process = subprocess.run(
        [sys.executable, "-B", "-c", code],
        capture_output=True,
        text=True,
        env=kept | environment,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


@pytest.fixture(scope="module")
def torch_threads() -> int:
    """How many threads torch uses here: not always one per core."""
    return int(python("import torch; print(torch.get_num_threads())"))


@pytest.fixture
def run(tmp_path: Path, assets: Path) -> Callable[..., str]:
    def run(program: str, *, threads: int = 0, **environment: str) -> str:
        home = tmp_path / "home"
        values = [str(tmp_path), str(assets / "bus.jpg"), threads, str(home)]
        head = f"TEMP, PHOTO, THREADS, HOME = {values}\n"
        environment = {"TMPDIR": str(tmp_path), "HOME": str(home)} | environment
        return python(head + WATCH + program, **environment)

    return run


def test_a_detection_opens_no_socket_starts_no_process_and_writes_no_file(
    run, tmp_path, torch_threads
):
    """It keeps the environment, `torch.save` and torch's threads, and leaves no thread running.

    That no file is written also shows that ONNX Runtime's native code, which an audit hook does not
    see, has created no device id for its telemetry.
    """
    assert run(DETECT, threads=torch_threads) == "[] []"
    assert not (tmp_path / "home").exists()


def test_four_threads_may_load_at_once(run, torch_threads):
    assert run(TOGETHER, threads=torch_threads) == "[] []"


@pytest.mark.parametrize(
    "before", ["detect(counts); counts.get()", "import torch; torch.rand(2000, 2000).matmul(torch.rand(2000, 2000))"]
)  # fmt: skip
def test_a_forked_process_loads_its_own_networks(run, before):
    """GNU OpenMP would wait for ever for the threads that its parent had."""
    assert run(FORK.replace("BEFORE", before)) == "[] []"


@pytest.mark.skipif(sys.platform != "linux", reason="the settings are in another folder")
def test_the_users_settings_of_ultralytics_are_read_and_not_changed(run):
    assert run(SETTINGS) == "[] []"


def test_concurrent_threads_keep_the_variables_they_set():
    def keeps(name: str) -> bool:
        with preserve_environ():
            os.environ[name] = "1"
            time.sleep(0.001)  # lets other threads run
            return name in os.environ

    before = dict(os.environ)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(keeps, [f"OPENVOCAB_{number % 7}" for number in range(100)]))
    assert dict(os.environ) == before


def test_the_users_own_thread_count_is_kept(run):
    assert run(DETECT, threads=1, OMP_NUM_THREADS="1") == "[] []"


def test_a_missing_backend_is_not_installed_even_if_the_user_imported_ultralytics_first(run):
    assert run(USER_FIRST, YOLO_OFFLINE="true").endswith("[] []")


@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_openvino_reports_nothing_about_the_models_it_reads(run, tmp_path):
    assert run(OPENVINO) == "[] []"
    assert not (tmp_path / "home").exists()


def test_exporting_an_encoder_opens_no_socket_starts_no_process_and_writes_only_the_bundle(
    run, tmp_path
):
    tests = str(Path(__file__).parents[1])
    assert run(EXPORT.replace("TESTS", repr(tests))) == "[] []"
    assert not (tmp_path / "home").exists()


def test_nor_does_exporting_and_loading_a_detector_whatever_the_processor(
    run, tmp_path, checkpoint
):
    program = EXPORT_DETECTOR.replace("CHECKPOINT", repr(str(checkpoint("yolo11n.yaml"))))
    program = program.replace(
        "PROCESSOR", repr(python("import platform; print(platform.processor())"))
    )
    assert run(ARM + program).splitlines()[0] == "[] []"
    assert not (tmp_path / "home").exists()


def test_no_thread_spins_after_a_call(run):
    """A thread that waits by spinning takes a core from the network that runs next."""
    assert run(REST) == "[] []"
