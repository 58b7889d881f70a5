"""What a detection does to the process and sends to the world: nothing.

Each program runs in a process of its own, with an audit hook (PEP 578) that the interpreter calls
for every socket, process and file that is opened, whatever library does it.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest

from openvocab._internal.environment import preserve_environ

WATCH = """
import os, sys
seen = []
WATCHED = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto",
           "os.system", "os.posix_spawn", "subprocess.Popen", "os.exec", "os.fork"}
def watch(event, arguments):
    if event in WATCHED:
        seen.append((event, str(arguments)[:200]))
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        path = str(arguments[0])
        # By its number: a file that was opened, and seen, by its path.
        if not path.startswith(("/dev/null", TEMP)) and not isinstance(arguments[0], int):
            seen.append((event, path))
"""

DETECT = """
import PIL.Image
import cv2, torch  # OpenCV says in its own variables where its Qt lies, for windows
before = dict(os.environ)
torch.set_printoptions(precision=2)
save, pil_open, threads = torch.save, PIL.Image.open, torch.get_num_threads()
chance = torch.get_rng_state()
sys.addaudithook(watch)
from openvocab import detect
found = detect(PHOTO, ["bus", "person"])
assert len(found) >= 4, found
assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())
assert torch._tensor_str.PRINT_OPTS.precision == 2
assert torch.save is save and PIL.Image.open is pil_open
assert torch.equal(torch.get_rng_state(), chance)
import logging
assert logging.root.handlers == [], "the program's own basicConfig would do nothing"
assert torch.get_num_threads() == threads == CORES, (torch.get_num_threads(), threads, CORES)
import threading
print(seen, [thread.name for thread in threading.enumerate() if thread.daemon])
"""

USER_FIRST = """
import ultralytics
from ultralytics.utils import checks
from openvocab.errors import ModelError
from openvocab.proposers.ultralytics import UltralyticsProposer
checks.AUTOINSTALL = True
sys.addaudithook(watch)
for suffix in ("engine", "mnn", "pt", "torchscript", "tflite", "mlpackage"):
    path = TEMP + "/broken." + suffix
    open(path, "wb").write(b"no model")
    try:
        UltralyticsProposer(path, trust_pickle=True)
    except ModelError as error:
        assert len(str(error).splitlines()) == 1
    else:
        raise SystemExit(path + " was loaded")
assert checks.AUTOINSTALL is True
from openvocab.io import images
from openvocab.errors import ImageError
try:
    images.load_image(b"I am no picture")
except ImageError:
    pass
print([event for event in seen if "pip" in str(event) or event[0].startswith("socket")], [])
"""

FORK = """
import multiprocessing, queue
from openvocab import OpenVocabDetector
def look(answers):
    answers.put(len(OpenVocabDetector.from_preset().detect(PHOTO, ["bus", "person"])))
fork = multiprocessing.get_context("fork")
answers = fork.SimpleQueue()
BEFORE
child = fork.Process(target=look, args=[answers], daemon=True)
child.start()
child.join(100)
assert child.exitcode == 0, child.exitcode
assert answers.get() >= 4
print("[]", [])
"""

SETTINGS = """
import json
from pathlib import Path
home = Path(HOME) / ".config/Ultralytics"
def once():
    from openvocab import detect
    assert len(detect(PHOTO, ["bus", "person"])) >= 4
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
assert [each for each in os.listdir(TEMP) if each.startswith("openvocab")] == []
print("[]", [])
"""


TOGETHER = """
from concurrent.futures import ThreadPoolExecutor
from openvocab import OpenVocabDetector
before = dict(os.environ)
with ThreadPoolExecutor(4) as pool:
    detectors = list(pool.map(lambda _: OpenVocabDetector.from_preset(), range(4)))
    found = list(pool.map(lambda each: len(each.detect(PHOTO, ["bus", "person"])), detectors))
assert len(set(found)) == 1 and found[0] >= 4, found
import torch
assert torch.get_num_threads() == CORES
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
print(seen, [])
"""

REST = """
import time
import numpy as np
from openvocab import OpenVocabDetector
from openvocab.io import images
from openvocab.scoring import log_odds
detector, photo = OpenVocabDetector.from_preset(), images.load_image(PHOTO)
words = ["bus", "person", *(f"thing {number}" for number in range(500))]
chance = np.random.default_rng(0)
few, many = chance.random((1, 384)), chance.random((300, 384))
calls = {
    "detect": lambda: detector.detect(photo, words, score_threshold=0.05),
    "matmul_nt": lambda: (matching.matmul_nt(few, many), matching.matmul_nt(many, many)),
}
for name, call in calls.items():
    call()
    time.sleep(0.2)
    spun = []
    for _ in range(5):
        call()
        before = time.process_time()
        time.sleep(0.05)
        spun.append(time.process_time() - before)
    assert sorted(spun)[2] < 0.01, (name, spun)
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
print(seen, [])
"""

EXPORT_DETECTOR = """
from pathlib import Path
from openvocab.export.detector import export_detector
before = dict(os.environ)
sys.addaudithook(watch)
for runtime in ("onnx", "openvino"):
    export_detector(Path(CHECKPOINT), runtime, "fp32", out=Path(TEMP), image_size=64, trust_pickle=True)
assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())
print(seen, [])
"""


def run(program: str, tmp_path: Path, photo: Path, **environment: str) -> str:
    cores = len(os.sched_getaffinity(0))
    home = tmp_path / "home"
    head = f"TEMP, PHOTO, CORES, HOME = {[str(tmp_path), str(photo), cores, str(home)]}\n"
    clean = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-B", "-c", head + WATCH + program],
        capture_output=True,
        text=True,
        env=clean | {"TMPDIR": str(tmp_path), "HOME": str(home)} | environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_detection_opens_no_socket_starts_no_process_and_writes_no_file(tmp_path, assets):
    """It keeps the environment, `torch.save` and all cores, and leaves no thread behind.

    No file also means: native code of ONNX Runtime, which no hook sees, made no device id to send.
    """
    assert run(DETECT, tmp_path, assets / "bus.jpg") == "[] []"
    assert not (tmp_path / "home").exists()


def test_four_threads_may_load_at_once(tmp_path, assets):
    assert run(TOGETHER, tmp_path, assets / "bus.jpg") == "[] []"


@pytest.mark.parametrize(
    "before", ["look(answers); answers.get()", "import torch; torch.rand(2000, 2000).matmul(torch.rand(2000, 2000))"]
)  # fmt: skip
def test_a_forked_process_loads_networks_of_its_own(tmp_path, assets, before):
    """GNU OpenMP waits for ever for the threads that its parent had."""
    assert run(FORK.replace("BEFORE", before), tmp_path, assets / "bus.jpg") == "[] []"


@pytest.mark.skipif(sys.platform != "linux", reason="the settings lie elsewhere")
def test_the_users_settings_of_ultralytics_are_read_and_left_alone(tmp_path, assets):
    unset = {"XDG_CONFIG_HOME": "", "YOLO_CONFIG_DIR": ""}
    assert run(SETTINGS, tmp_path, assets / "bus.jpg", **unset) == "[] []"


def test_no_thread_loses_the_variables_it_has_set_to_another():
    def keeps(name: str) -> bool:
        with preserve_environ():
            os.environ[name] = "1"
            time.sleep(0.001)  # others come and go
            return name in os.environ

    before = dict(os.environ)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(keeps, [f"OPENVOCAB_{number % 7}" for number in range(100)]))
    assert dict(os.environ) == before


@pytest.mark.parametrize("threads", ["1"])
def test_the_users_own_thread_count_is_kept(tmp_path, assets, threads):
    program = DETECT.replace("CORES", threads)
    assert run(program, tmp_path, assets / "bus.jpg", OMP_NUM_THREADS=threads) == "[] []"


def test_a_backend_that_is_missing_is_not_installed_even_if_the_user_imported_first(
    tmp_path, assets
):
    out = run(USER_FIRST, tmp_path, assets / "bus.jpg", YOLO_OFFLINE="true")
    assert out.endswith("[] []")


@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_openvino_tells_nobody_what_it_reads(tmp_path, assets):
    assert run(OPENVINO, tmp_path, assets / "bus.jpg") == "[] []"
    assert not (tmp_path / "home").exists()


def test_an_export_opens_no_socket_starts_no_process_and_writes_only_the_bundle(tmp_path, assets):
    tests = str(Path(__file__).parents[1])
    assert run(EXPORT.replace("TESTS", repr(tests)), tmp_path, assets / "bus.jpg") == "[] []"
    assert not (tmp_path / "home").exists()


def test_nor_does_one_of_a_detector(tmp_path, assets, checkpoint):
    program = EXPORT_DETECTOR.replace("CHECKPOINT", repr(str(checkpoint("yolo11n.yaml"))))
    assert run(program, tmp_path, assets / "bus.jpg") == "[] []"
    assert not (tmp_path / "home").exists()


def test_no_thread_spins_once_a_call_is_over(tmp_path, assets):
    """A thread that waits by spinning takes a core from the network that runs next."""
    assert run(REST, tmp_path, assets / "bus.jpg") == "[] []"
