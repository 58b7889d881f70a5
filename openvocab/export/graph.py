"""Makes `image.onnx`, the image tower's graph with its weights left in the bundle, and int8."""

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from openvocab._internal.environment import preserve_environ, require_packages, silence_logs
from openvocab._internal.runtimes import onnxruntime
from openvocab.encoders.image_encoder_runtime import LAYOUT, header, layout
from openvocab.errors import ModelError

KINDS = {"F16": "FLOAT16", "BF16": "BFLOAT16", "F32": "FLOAT"}  # safetensors' names to ONNX's


def traced(tower: nn.Module, size: int, weights: Path) -> bytes:
    """The graph of a tower of `visual`, for any batch size, with references to its weights.

    So the graph is small, and the two can never disagree. Runtimes widen and fold the weights when
    they load it.

    Raises:
        ModelError: the file does not hold the tensors as the tower has them, or a package is
            missing.
    """
    require_packages("The export", "export", "onnx", "onnxscript")
    import onnx
    from onnxscript import ir, optimizer

    # Channels last, in which torch is fastest, would leave traces in the graph.
    tower = copy.deepcopy(tower).to(memory_format=torch.contiguous_format)
    with preserve_environ(), silence_logs():
        program = torch.onnx.export(
            tower,
            (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
            dynamo=True,
            optimize=False,
            verbose=False,
            dynamic_shapes=({0: torch.export.Dim("regions")},),
            input_names=["regions"],
            output_names=["features"],
        )
    if program is None:
        raise ModelError("torch gives no ONNX program; install another version of torch.")
    _without_values(program.model)
    optimizer.optimize(program.model)
    proto = ir.to_proto(program.model)
    places = header(weights)
    _refer(proto.graph, weights.name, len(places), json.loads(places))
    onnx.helper.set_model_props(proto, {LAYOUT: layout(weights)})
    del proto.graph.value_info[:]
    proto.doc_string = ""
    for node in proto.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    return bytes(proto.SerializeToString(deterministic=True))


def quantised(graph: Path) -> bytes:
    """The graph with the weights of its products in int8, and input scales chosen at each run.

    Dynamic, with one scale per channel. Static int8, with scales calibrated on 160 regions, was
    tried and dropped: it keeps the names of 83 to 86 % of regions (a random ViT-B-32, the starter),
    dynamic int8 those of 97 to 99 %, and on the ViT it is no faster.
    """
    require_packages("The export", "export", "onnx")
    runtime = onnxruntime()
    with tempfile.TemporaryDirectory(prefix="openvocab-export-") as place, preserve_environ():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        name_key, result = Path(place) / "name_key.onnx", Path(place) / "int8.onnx"
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors
        # Only constants are quantised; a transposed or widened weight is not one until name_key.
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(name_key)
        for key, value in (("file_name", "name_key.bin"), ("min_size_in_bytes", "1024")):
            options.add_session_config_entry(
                f"session.optimized_model_external_initializers_{key}", value
            )
        runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        with silence_logs():
            quantize_dynamic(
                name_key,
                result,
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                weight_type=QuantType.QInt8,
            )
        return result.read_bytes()


def _without_values(model: Any) -> None:  # noqa: ANN401  onnx ships no types
    """Turn weights into inputs, so that the optimizer computes nothing from them."""
    for name, value in list(model.graph.initializers.items()):
        if not name.startswith("visual."):
            continue  # belongs to the preprocessing
        del model.graph.initializers[name]
        value.const_value = None
        model.graph.inputs.append(value)


def _refer(graph: Any, file: str, header_bytes: int, entries: dict[str, Any]) -> None:  # noqa: ANN401
    """Turn weights that are inputs into references to the safetensors file, widened to float32."""
    from onnx import TensorProto, helper

    widened = []
    for value in [value for value in graph.input if value.name != "regions"]:
        entry = entries.get(value.name, {})
        shape = [size.dim_value for size in value.type.tensor_type.shape.dim]
        if entry.get("dtype") not in KINDS or entry.get("shape") != shape:
            raise ModelError(
                f"{file} does not hold {value.name} as the model has it, so that no graph can "
                "refer to it; save the loaded model's state again as safetensors."
            )
        graph.input.remove(value)
        begin, end = entry["data_offsets"]
        stored = value.name if entry["dtype"] == "F32" else f"{value.name}.stored"
        tensor = TensorProto(
            name=stored, data_type=TensorProto.DataType.Value(KINDS[entry["dtype"]]), dims=shape,
            data_location=TensorProto.EXTERNAL,
        )  # fmt: skip
        place = {"location": file, "offset": 8 + header_bytes + begin, "length": end - begin}
        for key, part in place.items():
            tensor.external_data.add(key=key, value=str(part))
        graph.initializer.append(tensor)
        if stored != value.name:
            widened.append(helper.make_node("Cast", [stored], [value.name], to=TensorProto.FLOAT))
    nodes = [*widened, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
