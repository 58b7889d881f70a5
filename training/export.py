"""Write `image.onnx` beside an open_clip bundle: the image tower's graph, whose weights stay there.

The graph refers to the tensors in `open_clip_model.safetensors` by their place in the file, so it
is small and the two can never disagree. ONNX Runtime widens and folds them when it loads.
"""

import argparse
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import onnx
import open_clip
import torch
from onnx import TensorProto, helper
from onnxscript import ir, optimizer
from torch import Tensor, nn
from torch.nn.functional import normalize

from openvocab.encoders.onnx import GRAPH, LAYOUT, header

logger = logging.getLogger("export")

WEIGHTS = "open_clip_model.safetensors"
TYPES = {"F16": TensorProto.FLOAT16, "BF16": TensorProto.BFLOAT16, "F32": TensorProto.FLOAT}


class ImageTower(nn.Module):
    """Preprocessed pixels `(N, 3, S, S)` to unit features `(N, D)`; names as in the bundle."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, pixels: Tensor) -> Tensor:
        """As the bundle's `encode_image(..., normalize=True)`."""
        return normalize(self.visual(pixels), dim=-1)


def export(bundle: Path) -> None:
    """Trace the image tower with any batch size, and point its weights into the bundle."""
    model = open_clip.create_model(f"local-dir:{bundle}", require_pretrained=True).eval()
    size = model.visual.image_size
    size = size if isinstance(size, int) else size[0]
    program = torch.onnx.export(
        ImageTower(model.visual).eval(),
        (torch.zeros(2, 3, size, size),),
        dynamo=True,
        optimize=False,
        dynamic_shapes=({0: torch.export.Dim("regions")},),
        input_names=["pixels"],
        output_names=["features"],
    )
    _without_values(program.model)
    optimizer.optimize(program.model)
    proto = ir.to_proto(program.model)
    places = header(bundle / WEIGHTS)
    _refer(proto.graph, len(places), json.loads(places))
    helper.set_model_props(proto, {LAYOUT: hashlib.sha256(places).hexdigest()})
    del proto.graph.value_info[:]
    proto.doc_string = ""
    for node in proto.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    onnx.save_model(proto, bundle / GRAPH)
    onnx.checker.check_model(str(bundle / GRAPH))
    logger.info("%s: %d nodes, %d bytes", GRAPH, len(proto.graph.node), proto.ByteSize())


def _without_values(model: ir.Model) -> None:
    """Weights become inputs, so that the optimizer computes nothing from them."""
    for name, value in list(model.graph.initializers.items()):
        del model.graph.initializers[name]
        value.const_value = None
        model.graph.inputs.append(value)


def _refer(graph: onnx.GraphProto, header_bytes: int, entries: dict[str, Any]) -> None:
    """Weights that are inputs become references into the safetensors file, widened to float32."""
    weights = [value for value in graph.input if value.name in entries]
    widened = []
    for value in weights:
        graph.input.remove(value)
        kind = entries[value.name]["dtype"]
        begin, end = entries[value.name]["data_offsets"]
        stored = value.name if kind == "F32" else f"{value.name}.stored"
        tensor = TensorProto(
            name=stored, data_type=TYPES[kind], dims=entries[value.name]["shape"],
            data_location=TensorProto.EXTERNAL,
        )  # fmt: skip
        place = {"location": WEIGHTS, "offset": 8 + header_bytes + begin, "length": end - begin}
        for key, part in place.items():
            tensor.external_data.add(key=key, value=str(part))
        graph.initializer.append(tensor)
        if stored != value.name:
            widened.append(helper.make_node("Cast", [stored], [value.name], to=TensorProto.FLOAT))
    nodes = [*widened, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def main() -> None:
    """Of the starter bundle, unless told otherwise."""
    logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    bundle = Path(__file__).parents[1] / "weights/starter/encoder"
    parser.add_argument("--bundle", type=Path, default=bundle)
    export(parser.parse_args().bundle)


if __name__ == "__main__":
    main()
