"""Distil the text tower: a small CLIP text transformer learns the space of a sentence encoder.

Every phrase is met bare or in a template, and is to land where the teacher puts the bare phrase,
moved towards the words of its commonest WordNet synset ("rucksack" comes to "backpack") and towards
the thing of COCO that it is a kind of ("pedestrian" comes to "person"). The mean of all nouns is
taken out first, so that unrelated words are at right angles.
"""

import argparse
import json
import logging
import math
import random
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
from torch.nn.attention import SDPBackend, sdpa_kernel
from wordnet import THINGS, WordNet, read

logger = logging.getLogger("text")

START, END, CONTEXT = 49406, 49407, 32  # of open_clip's tokenizer; words of a prompt
TEXT = {"context_length": CONTEXT, "vocab_size": 49408, "width": 256, "heads": 4, "layers": 4}
PULL, PULL_KIND = 0.5, 0.35  # of the synset's mean and of the kind, on top of the phrase itself
SENSES = 6  # of a word that are looked at for its kinds
TEMPLATED = 0.55  # share of phrases met in a template
# Shares of the phrases drawn: names of the datasets, everyday nouns, other nouns, composed phrases.
SHARES = {"name": 0.12, "everyday": 0.33, "noun": 0.20, "composed": 0.35}
BATCH, RATE, SHARPNESS = 768, 1e-3, 20.0


class Targets:
    """Where each phrase is to land: the teacher's row, with its noun moved to its relatives."""

    def __init__(
        self,
        phrases: dict[str, str | None],
        wordnet: WordNet,
        rows: NDArray[np.float32],
        coco: Sequence[str],
    ) -> None:
        nouns = [place for place, phrase in enumerate(phrases) if phrase in wordnet.common]
        centred = rows - rows[nouns].mean(0)
        self._rows = centred / np.linalg.norm(centred, axis=1, keepdims=True)
        self._place = {phrase: index for index, phrase in enumerate(phrases)}
        self._wordnet, self._coco = wordnet, set(coco)
        self._kinds = {
            wordnet.synsets[name][names.MEANT.get(name, 0)]: name
            for name in coco
            if name in wordnet.synsets
        }
        self._moved: dict[str, NDArray[np.float32]] = {}

    def __call__(self, phrase: str, noun: str | None) -> NDArray[np.float32]:
        """One phrase's unit row `(D,)`."""
        row = self._rows[self._place[phrase]]
        if noun is None or noun not in self._place:
            return row
        if noun not in self._moved:
            self._moved[noun] = self._move(noun)
        moved = row + self._moved[noun]
        return moved / np.linalg.norm(moved)

    def kinds(self, noun: str) -> list[str]:
        """Names of COCO that a noun is a kind of, by its commonest sense or as a thing."""
        found = []
        for rank, synset in enumerate(self._wordnet.synsets.get(noun, ())[:SENSES]):
            if rank and self._wordnet.lexicon[synset] not in THINGS:
                continue
            chain = [synset, *self._wordnet.ancestors(synset)]
            kind = next((self._kinds[each] for each in chain if each in self._kinds), None)
            if kind and kind not in found:
                found.append(kind)
        return found

    def _move(self, noun: str) -> NDArray[np.float32]:
        """What is added to every phrase about a noun."""
        synonyms = self._wordnet.synonyms(noun, names.MEANT.get(noun, 0))
        moved = np.zeros_like(self._rows[0])
        if synonyms:
            moved += PULL * self._rows[[self._place[word] for word in synonyms]].mean(0)
        kinds = [] if noun in self._coco else self.kinds(noun)
        if kinds:
            near = self._rows[[self._place[kind] for kind in kinds]].sum(0)
            moved += PULL_KIND * near / len(kinds) ** 0.5
        return moved


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


def encode_tokens(model: torch.nn.Module, tokens: Tensor, parts: int = 3) -> Tensor:
    """Features `(N, D)` of padded tokens, in parts of like length: nothing is spent on padding.

    PyTorch's plain attention: its flash kernel is four times as slow backwards on words this short.
    """
    lengths = tokens.argmax(1) + 1  # the end has the highest number
    order = lengths.argsort()
    found = []
    with sdpa_kernel(SDPBackend.MATH):
        for part in order.chunk(parts):
            length = int(lengths[part[-1]])
            hidden = model.token_embedding(tokens[part, :length])
            hidden = hidden + model.positional_embedding[:length]
            hidden = model.transformer(hidden, attn_mask=model.attn_mask[:length, :length])
            ends = model.ln_final(hidden)[torch.arange(len(part)), lengths[part] - 1]
            found.append(ends @ model.text_projection)
    return torch.cat(found)[order.argsort()]


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
    """Cosine to the target, and the targets' own neighbourhoods among the batch."""
    rows = F.normalize(features.float(), dim=-1)
    near = F.softmax(SHARPNESS * wanted @ wanted.T, dim=-1)
    found = F.log_softmax(SHARPNESS * rows @ wanted.T, dim=-1)
    cosine = (rows * wanted).sum(1).mean()
    return 1 - cosine + 0.3 * F.kl_div(found, near, reduction="batchmean")


def weights(
    phrases: dict[str, str | None], known: set[str], everyday: set[str], wordnet: WordNet
) -> NDArray[np.float32]:
    """How often each phrase is drawn: every group in its share."""
    groups = np.array([
        "name" if phrase in known
        else "everyday" if phrase in everyday
        else "noun" if phrase in wordnet.synsets
        else "composed"
        for phrase in phrases
    ])  # fmt: skip
    result = np.zeros(len(groups), np.float32)
    for group, share in SHARES.items():
        result[groups == group] = share / (groups == group).sum()
    return result


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
    steps: int,
    check: tuple[Batches, Sequence[int], Tensor],
) -> None:
    """AdamW, the rate rising for 200 steps and falling as a cosine."""
    parameters = [
        value for key, value in model.named_parameters() if not key.startswith(("visual", "logit"))
    ]
    groups = [
        {"params": [each for each in parameters if each.ndim > 1], "weight_decay": 0.01},
        {"params": [each for each in parameters if each.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98), fused=True)
    for step in range(steps):
        for group in optimizer.param_groups:
            falling = 0.5 + 0.5 * math.cos(math.pi * step / steps) + 0.01
            group["lr"] = RATE * min(1, (step + 1) / 200) * falling
        index, tokens = batches.draw(BATCH)
        with torch.autocast("cpu", torch.bfloat16):
            features = encode_tokens(model, tokens)
        value = loss(features, torch.from_numpy(wanted[index]))
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if (step + 1) % 250 == 0:
            found = quality(model, *check)
            logger.info("step %d of %d: loss %.3f; %s", step + 1, steps, value.item(), found)


def main() -> None:
    """Phrases, the teacher's rows (kept in the work folder), the tower."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="../shared/data/train, unpacked")
    parser.add_argument("--work", type=Path, required=True, help="folder of what is kept")
    parser.add_argument("--phrases", type=int, default=600_000, help="composed ones")
    parser.add_argument("--steps", type=int, default=5000)
    options = parser.parse_args()
    torch.manual_seed(0)
    options.work.mkdir(parents=True, exist_ok=True)

    wordnet = read()
    coco = names.coco(options.data / "coco-train")
    known = {
        *coco,
        *[name for _, name in names.imagenet(options.data / "imagenet-sample")],
        *[name.replace("_", " ") for _, name in names.caltech(options.data / "caltech81")],
        *[name for _, name in names.tiny_imagenet(options.data / "tinyimagenet-80")],
    }
    known = {name.lower() for name in known}
    everyday = wordnet.everyday(open_clip.SimpleTokenizer().encode)
    phrases = build(wordnet, sorted(everyday), sorted(known), options.phrases)
    wanted = _targets(options.work, phrases, wordnet, coco)
    held = held_out(phrases, wordnet, known)
    every = list(phrases)
    drawn = weights(phrases, known, everyday, wordnet)
    logger.info(
        "%d phrases, %d of them everyday nouns, %d held out", len(every), len(everyday), held.sum()
    )

    model = new_tower(options.work / "text")
    kept, aside = np.flatnonzero(~held), np.random.default_rng(0).choice(np.flatnonzero(held), 4000)
    batches = Batches([every[each] for each in kept], drawn[kept], seed=0)
    check = Batches([every[each] for each in aside], np.ones(len(aside), np.float32), seed=0)
    train(
        model, batches, wanted[kept], options.steps,
        (check, range(len(aside)), torch.from_numpy(wanted[aside])),
    )  # fmt: skip
    state = {
        key: value for key, value in model.state_dict().items() if not key.startswith("visual")
    }
    torch.save(state, options.work / "text.pt")


def _targets(
    work: Path, phrases: dict[str, str | None], wordnet: WordNet, coco: Sequence[str]
) -> NDArray[np.float32]:
    """The teacher is asked once; its rows stay in the work folder."""
    from teacher import encode

    path = work / "teacher.npy"
    if not path.is_file():
        np.save(path, encode(list(phrases)).astype(np.float16))
    target = Targets(phrases, wordnet, np.load(path).astype(np.float32), coco)
    return np.stack([target(phrase, noun) for phrase, noun in phrases.items()])


if __name__ == "__main__":
    main()
