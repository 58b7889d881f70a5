"""Distil the text tower: a small CLIP text transformer learns the space of a sentence encoder.

Every phrase is met bare or in a template, and is to land where the teacher puts the bare phrase,
moved towards the words of its commonest WordNet synset: so "rucksack" comes to "backpack".
"""

import argparse
import json
import logging
import random
import time
from collections.abc import Sequence
from pathlib import Path

import names
import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from phrases import TEMPLATES, build
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  PyTorch's own habit
from wordnet import WordNet, read

logger = logging.getLogger("text")

START, END, CONTEXT = 49406, 49407, 32  # of open_clip's tokenizer; words of a prompt
TEXT = {"context_length": CONTEXT, "vocab_size": 49408, "width": 256, "heads": 4, "layers": 4}
PULL = 0.5  # of the synset's mean, on top of the phrase itself
TEMPLATED = 0.55  # share of phrases met in a template
BATCH, RATE, SHARPNESS = 768, 1e-3, 20.0


def targets(
    phrases: dict[str, str | None], wordnet: WordNet, rows: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Where each phrase is to land: the teacher's row, with its noun moved to its synonyms."""
    place = {phrase: index for index, phrase in enumerate(phrases)}
    moved: dict[str, NDArray[np.float32]] = {}
    result = rows.copy()
    for phrase, noun in phrases.items():
        if noun is None or not wordnet.synonyms(noun):
            continue
        if noun not in moved:
            own = rows[place[noun]]
            pulled = own + PULL * rows[[place[word] for word in wordnet.synonyms(noun)]].mean(0)
            moved[noun] = pulled / np.linalg.norm(pulled) - own
        result[place[phrase]] += moved[noun]
    return result / np.linalg.norm(result, axis=1, keepdims=True)


def held_out(
    phrases: dict[str, str | None], wordnet: WordNet, known: set[str]
) -> NDArray[np.bool_]:
    """1 % of the phrases, and every phrase about 2 % of the synsets; never a dataset's name."""
    dice = random.Random(1)
    synsets = {synset for synset in wordnet.words if dice.random() < 0.02}
    return np.array([
        phrase not in known
        and (dice.random() < 0.01 or (wordnet.synsets.get(noun or "") or ("",))[0] in synsets)
        for phrase, noun in phrases.items()
    ])  # fmt: skip


def new_tower(folder: Path) -> torch.nn.Module:
    """An untrained text tower whose table of tokens starts where the teacher puts each token."""
    from teacher import WIDTH, encode

    vision = {"image_size": 32, "patch_size": 32, "width": 32, "layers": 1, "head_width": 32}
    config = {"embed_dim": WIDTH, "vision_cfg": vision, "text_cfg": TEXT}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    decoder = open_clip.SimpleTokenizer().decoder
    rows = encode([decoder[token].replace("</w>", "") for token in range(START)])
    rows -= rows.mean(0)
    axes = np.linalg.svd(rows[::4], full_matrices=False)[2][: TEXT["width"]]
    table = rows @ axes.T
    with torch.no_grad():
        model.token_embedding.weight[:START] = torch.from_numpy(0.03 * table / table.std())
    return model


def encode_tokens(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    """Features of tokens padded to the longest of the batch, not to the context: 3 times as fast."""
    length = tokens.shape[1]
    hidden = model.token_embedding(tokens) + model.positional_embedding[:length]
    hidden = model.transformer(hidden, attn_mask=model.attn_mask[:length, :length])
    ends = model.ln_final(hidden)[torch.arange(len(tokens)), tokens.argmax(1)]
    return ends @ model.text_projection


class Batches:
    """Draws phrases by weight, some in a template, as padded tokens."""

    def __init__(self, phrases: Sequence[str], weights: NDArray[np.float32], seed: int) -> None:
        self._encode = open_clip.SimpleTokenizer().encode
        self._tokens = [self._encode(phrase)[: CONTEXT - 12] for phrase in phrases]
        parts = [template.split("{}") for template in TEMPLATES]
        self._parts = [[self._encode(part) for part in pair] for pair in parts]
        self._edges = (weights / weights.sum()).cumsum()
        self._dice = random.Random(seed)
        self._numbers = np.random.default_rng(seed)

    def draw(self, size: int) -> tuple[NDArray[np.intp], Tensor]:
        """Indices of `size` phrases, and their tokens `(size, longest)`."""
        index = np.searchsorted(self._edges, self._numbers.random(size)).clip(
            max=len(self._edges) - 1
        )
        return index, self.pad([self._framed(self._tokens[each]) for each in index])

    def bare(self, index: Sequence[int]) -> Tensor:
        """The tokens of phrases as they are."""
        return self.pad([self._tokens[each] for each in index])

    @staticmethod
    def pad(rows: Sequence[list[int]]) -> Tensor:
        """Rows between start and end, as one tensor."""
        length = max(map(len, rows)) + 2
        result = torch.zeros(len(rows), length, dtype=torch.long)
        for line, row in zip(result, rows, strict=True):
            line[: len(row) + 2] = torch.tensor([START, *row, END])
        return result

    def _framed(self, tokens: list[int]) -> list[int]:
        if self._dice.random() >= TEMPLATED:
            return tokens
        before, after = self._dice.choice(self._parts)
        return before + tokens + after


def loss(features: Tensor, wanted: Tensor) -> Tensor:
    """Cosine to the target, and the teacher's own neighbourhoods among the batch."""
    rows = F.normalize(features.float(), dim=-1)
    near = F.softmax(SHARPNESS * wanted @ wanted.T, dim=-1)
    found = F.log_softmax(SHARPNESS * rows @ wanted.T, dim=-1)
    cosine = (rows * wanted).sum(1).mean()
    return 1 - cosine + 0.3 * F.kl_div(found, near, reduction="batchmean")


@torch.inference_mode()
def quality(model: torch.nn.Module, batches: Batches, index: Sequence[int], wanted: Tensor) -> str:
    """Cosine to the target and agreement of nearest neighbours, on held-out phrases."""
    parts = [
        encode_tokens(model, batches.bare(index[at : at + 1000]))
        for at in range(0, len(index), 1000)
    ]
    rows = F.normalize(torch.cat(parts), dim=-1)
    truth, found = wanted @ wanted.T, rows @ wanted.T
    truth.fill_diagonal_(-1), found.fill_diagonal_(-1)
    cosine = (rows * wanted).sum(1).mean().item()
    agree = (truth.argmax(1) == found.argmax(1)).float().mean().item()
    return f"held-out cosine {cosine:.3f}, nearest neighbour agrees {agree:.3f}"


def train(
    model: torch.nn.Module,
    batches: Batches,
    wanted: NDArray[np.float32],
    minutes: float,
    check: tuple[Batches, Sequence[int], Tensor],
) -> None:
    """AdamW, the rate falling as a cosine of the time spent."""
    parameters = [
        value for key, value in model.named_parameters() if not key.startswith(("visual", "logit"))
    ]
    groups = [
        {"params": [each for each in parameters if each.ndim > 1], "weight_decay": 0.01},
        {"params": [each for each in parameters if each.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98))
    begun, step = time.monotonic(), 0
    while (spent := (time.monotonic() - begun) / 60 / minutes) < 1:
        for group in optimizer.param_groups:
            group["lr"] = (
                RATE * min(1, (step + 1) / 200) * (0.5 + 0.5 * np.cos(np.pi * spent) + 0.01)
            )
        index, tokens = batches.draw(BATCH)
        with torch.autocast("cpu", torch.bfloat16):
            features = encode_tokens(model, tokens)
        value = loss(features, torch.from_numpy(wanted[index]))
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        if step % 250 == 0:
            logger.info(
                "step %d, %.0f %%: loss %.3f; %s",
                step,
                100 * spent,
                value.item(),
                quality(model, *check),
            )
    logger.info("step %d, end; %s", step, quality(model, *check))


def main() -> None:
    """Phrases, the teacher's rows (kept in the work folder), the tower."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="../shared/data/train, unpacked")
    parser.add_argument("--work", type=Path, required=True, help="folder of what is kept")
    parser.add_argument("--phrases", type=int, default=550_000, help="composed ones")
    parser.add_argument("--minutes", type=float, default=25)
    options = parser.parse_args()
    torch.manual_seed(0)
    options.work.mkdir(parents=True, exist_ok=True)

    wordnet = read()
    known = {
        *names.coco(options.data / "coco-train"),
        *[name for _, name in names.imagenet(options.data / "imagenet-sample")],
        *[name.replace("_", " ") for _, name in names.caltech(options.data / "caltech81")],
        *[name for _, name in names.tiny_imagenet(options.data / "tinyimagenet-80")],
    }
    known = {name.lower() for name in known}
    phrases = build(wordnet, sorted(known), options.phrases)
    wanted = _targets(options.work / "targets.npy", phrases, wordnet)
    held = held_out(phrases, wordnet, known)
    every = list(phrases)
    common = np.array([
        12.0 if phrase in known else 5.0 if phrase in wordnet.common else 1.0 for phrase in every
    ], np.float32)  # fmt: skip
    logger.info("%d phrases, %d held out", len(every), held.sum())

    model = new_tower(options.work / "text")
    kept, aside = np.flatnonzero(~held), np.random.default_rng(0).choice(np.flatnonzero(held), 4000)
    batches = Batches([every[each] for each in kept], common[kept], seed=0)
    check = Batches([every[each] for each in aside], np.ones(len(aside), np.float32), seed=0)
    train(
        model, batches, wanted[kept], options.minutes,
        (check, range(len(aside)), torch.from_numpy(wanted[aside])),
    )  # fmt: skip
    state = {
        key: value for key, value in model.state_dict().items() if not key.startswith("visual")
    }
    torch.save(state, options.work / "text.pt")


def _targets(path: Path, phrases: dict[str, str | None], wordnet: WordNet) -> NDArray[np.float32]:
    from teacher import encode

    if not path.is_file():
        np.save(path, targets(phrases, wordnet, encode(list(phrases))).astype(np.float16))
    return np.load(path).astype(np.float32)


if __name__ == "__main__":
    main()
