"""Makes `image.onnx`, a graph whose weights stay in the bundle, and its int8 version."""

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from openvocab._internal.environment import preserve_environ, require_packages, silence_logs
from openvocab._internal.runtimes import onnxruntime
from openvocab.encoders._image_encoder_runtime import LAYOUT, header, layout
from openvocab.errors import ModelError

DTYPES = {"F16": "FLOAT16", "BF16": "BFLOAT16", "F32": "FLOAT"}  # safetensors' names to ONNX's


def trace(image_encoder: nn.Module, size: int, weights: Path) -> bytes:
    """Make the graph of an image encoder, for any batch size, with references to its weights.

    The graph is small, and cannot disagree with the weights. Runtimes widen and fold them when they
    load it.

    Args:
        image_encoder: maps regions `(N, size, size, 3)` uint8 to features; its weights are in `.visual`.
        size: side of a region, in pixels.
        weights: the safetensors file with the same weights.

    Raises:
        ModelError: the file does not hold the tensors as the model has them, or a package is
            missing.
    """
    require_packages("The export", "export", "onnx", "onnxscript")
    import onnx
    from onnxscript import ir, optimizer

    # Channels last, which is fastest in torch, would add transpositions to the graph.
    image_encoder = copy.deepcopy(image_encoder).to(memory_format=torch.contiguous_format)
    with preserve_environ(), silence_logs():
        program = torch.onnx.export(
            image_encoder,
            (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
            dynamo=True,
            optimize=False,
            verbose=False,
            dynamic_shapes=({0: torch.export.Dim("regions")},),
            input_names=["regions"],
            output_names=["features"],
        )
    if program is None:
        raise ModelError("torch returned no ONNX program; install another version of torch.")
    _turn_weights_into_inputs(program.model)
    optimizer.optimize(program.model)
    proto = ir.to_proto(program.model)
    _refer_to_weights(proto.graph, weights)
    onnx.helper.set_model_props(proto, {LAYOUT: layout(weights)})
    del proto.graph.value_info[:]
    proto.doc_string = ""
    for node in proto.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    return bytes(proto.SerializeToString(deterministic=True))


def quantize(graph: Path) -> bytes:
    """Quantize the weights of matrix products to int8, one scale per channel; dynamic input scales.

    Static int8, with input scales calibrated on 160 regions, was tried and dropped: it keeps the
    nearest word of 83 to 86 % of regions (a random ViT-B-32, the starter), dynamic int8 that of 97
    to 99 %, and on the ViT it is no faster.
    """
    require_packages("The export", "export", "onnx")
    runtime = onnxruntime()
    with tempfile.TemporaryDirectory(prefix="openvocab-export-") as name, preserve_environ():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        folded, result = Path(name) / "folded.onnx", Path(name) / "int8.onnx"
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors
        # Only constants are quantized; a transposed or widened weight is not one until folded.
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
        for key, value in (("file_name", "folded.bin"), ("min_size_in_bytes", "1024")):
            options.add_session_config_entry(
                f"session.optimized_model_external_initializers_{key}", value
            )
        runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        with silence_logs():
            quantize_dynamic(
                folded,
                result,
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                weight_type=QuantType.QInt8,
            )
        return result.read_bytes()


def _turn_weights_into_inputs(model: Any) -> None:  # noqa: ANN401  onnx ships no types
    """Hide the values of weights, so that the optimizer computes nothing from them."""
    for name, value in list(model.graph.initializers.items()):
        if name.startswith("visual."):  # the others belong to the preprocessing
            del model.graph.initializers[name]
            value.const_value = None
            model.graph.inputs.append(value)


def _refer_to_weights(graph: Any, weights: Path) -> None:  # noqa: ANN401
    """Turn weights that are inputs into references to the safetensors file, widened to float32."""
    from onnx import TensorProto, helper

    table = header(weights)
    entries = json.loads(table)
    casts = []
    for value in [value for value in graph.input if value.name != "regions"]:
        entry = entries.get(value.name, {})
        shape = [size.dim_value for size in value.type.tensor_type.shape.dim]
        if entry.get("dtype") not in DTYPES or entry.get("shape") != shape:
            raise ModelError(
                f"{weights.name} does not hold {value.name} as the model has it, so no graph can "
                "refer to it; save the loaded model's state again as safetensors."
            )
        graph.input.remove(value)
        begin, end = entry["data_offsets"]
        stored = value.name if entry["dtype"] == "F32" else f"{value.name}.stored"
        tensor = TensorProto(
            name=stored, data_type=TensorProto.DataType.Value(DTYPES[entry["dtype"]]), dims=shape,
            data_location=TensorProto.EXTERNAL,
        )  # fmt: skip
        reference = {
            "location": weights.name,
            "offset": 8 + len(table) + begin,
            "length": end - begin,
        }
        for key, part in reference.items():
            tensor.external_data.add(key=key, value=str(part))
        graph.initializer.append(tensor)
        if stored != value.name:
            casts.append(helper.make_node("Cast", [stored], [value.name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
