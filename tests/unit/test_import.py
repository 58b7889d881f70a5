"""Importing the package costs and changes nothing."""

import subprocess
import sys

PROGRAM = """
import os, sys, threading
before = dict(os.environ)
import openvocab
assert dict(os.environ) == before
assert threading.active_count() == 1
heavy = {"torch", "ultralytics", "open_clip", "cv2", "supervision", "numpy"} & set(sys.modules)
print(sorted(heavy))
"""


def test_import_loads_nothing_heavy_sets_no_variable_and_starts_no_thread():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
