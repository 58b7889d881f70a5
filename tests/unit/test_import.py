"""Importing the package costs and changes nothing."""

import subprocess
import sys

PROGRAM = """
import logging, os, random, signal, sys, threading, warnings  # `random` registers a fork hook
registered = []
for module, name in (("os", "register_at_fork"), ("signal", "signal"), ("sys", "addaudithook"),
                     ("atexit", "register"), ("threading", "_register_atexit")):
    module = __import__(module)
    register = getattr(module, name)
    setattr(module, name, lambda *args, register=register, **kwargs: registered.append(register))
environ, filters, path = dict(os.environ), warnings.filters[:], sys.path[:]
finders, hook = sys.meta_path[:], sys.excepthook
import openvocab
assert not registered, registered
assert (dict(os.environ), warnings.filters, sys.path) == (environ, filters, path)
assert (sys.meta_path, sys.excepthook) == (finders, hook)
assert logging.root.handlers == [] and threading.active_count() == 1
heavy = {"torch", "ultralytics", "open_clip", "cv2", "supervision", "numpy", "onnxruntime", "PIL"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""


def test_import_loads_nothing_heavy_registers_no_hook_and_starts_no_thread():
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
