"""Zero-shot accuracy of a bundle on photos it was not trained on, with 95 % intervals.

Every name is the mean of three plain templates; a box is the mean of its 1.0x and 1.5x views. ConSE (Norouzi et al., ICLR 2014) with the teacher's own text is what no
training gives.
"""

import argparse
import json
import logging
import math
import tomllib
from collections.abc import Sequence
from pathlib import Path

import images
import names
import numpy as np
import open_clip
import PIL.Image
import torch
import views
from teacher import encode
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  PyTorch's own habit

logger = logging.getLogger("evaluate")

MAP = Path(__file__).parents[1] / "configs/classes/coco.toml"

# Held-out animals against look-alikes and what is seen beside them.
COMPANIONS = {
    "emu": "person, dog, chicken, turkey, flamingo, tree, fence, horse",
    "hedgehog": "mouse, rabbit, squirrel, cat, brush, cactus, leaf, dog",
    "kangaroo": "dog, deer, rabbit, horse, person, tree, cow, cat",
    "okapi": "zebra, horse, cow, donkey, person, tree, dog, goat",
    "rooster": "duck, parrot, turkey, pigeon, dog, person, flower, cat",
}
# Animals that ImageNet knows, in held-out pictures of Tiny ImageNet: name there, word, eight others.
KNOWN = (
    ("koala", "koala", "bear, monkey, cat, dog, sloth, tree, person, raccoon"),
    ("lion", "lion", "dog, tiger, cat, bear, horse, cow, person, wolf"),
    ("king penguin", "penguin", "duck, seagull, person, dog, whale, chicken, pigeon, cat"),
    ("chimpanzee", "chimpanzee", "person, dog, gorilla, bear, cat, baboon, sloth, horse"),
    ("Arabian camel", "camel", "horse, cow, llama, giraffe, person, dog, sheep, deer"),
    ("gazelle", "gazelle", "deer, horse, cow, goat, dog, giraffe, antelope, sheep"),
    ("guinea pig", "guinea pig", "mouse, rabbit, hamster, cat, dog, squirrel, pig, person"),
    ("American alligator", "alligator", "lizard, snake, frog, turtle, fish, dog, log, bird"),
)
# Pictures like CIFAR-10's, of Tiny ImageNet's classes; nothing there is a horse or an airplane.
SMALL = {
    "cat": "tabby, Persian cat, Egyptian cat",
    "dog": "Chihuahua, Yorkshire terrier, golden retriever, Labrador retriever, German shepherd",
    "frog": "bullfrog, tailed frog", "bird": "goose, black stork, king penguin, albatross",
    "automobile": "sports car, convertible, limousine, beach wagon", "truck": "moving van",
    "ship": "lifeboat", "deer": "gazelle", "horse": "", "airplane": "",
}  # fmt: skip


class Bundle:
    """A bundle's two towers, on regions and names."""

    def __init__(self, folder: Path) -> None:
        name = f"local-dir:{folder}"
        self._model, self._preprocess = open_clip.create_model_from_pretrained(name)
        self._tokenize = open_clip.get_tokenizer(name)
        self._model.eval()

    @torch.inference_mode()
    def words(self, words: Sequence[str]) -> Tensor:
        """Unit rows `(K, D)`."""
        plain = [word.replace("_", " ").lower() for word in words]
        prompts = [template.format(word) for word in plain for template in images.TEMPLATES]
        rows = self._model.encode_text(self._tokenize(prompts), normalize=True)
        return F.normalize(rows.view(len(words), len(images.TEMPLATES), -1).mean(1), dim=-1)

    @torch.inference_mode()
    def pictures(self, crops: Sequence[np.ndarray]) -> Tensor:
        """Unit rows of RGB crops."""
        parts = []
        for start in range(0, len(crops), 32):
            batch = [
                self._preprocess(PIL.Image.fromarray(crop)) for crop in crops[start : start + 32]
            ]
            parts.append(self._model.encode_image(torch.stack(batch), normalize=True))
        return torch.cat(parts)


def interval(right: int, of: int) -> tuple[float, float, float]:
    """Share in percent, and Wilson's 95 % interval."""
    share, z = right / of, 1.96
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return 100 * share, 100 * (middle - half), 100 * (middle + half)


def coco_boxes(bundle: Bundle, folder: Path, photos: str) -> dict[str, tuple[float, float, float]]:
    """80-way on ground-truth boxes, by COCO's names and by synonyms."""
    boxes, known = names.coco_boxes(folder, photos), names.coco(folder)
    crops, opened = [], {}
    for box in boxes:
        if box.photo not in opened:
            opened = {box.photo: PIL.Image.open(box.photo).convert("RGB")}
        crops += [views.cut(opened[box.photo], box.xyxy, scale) for scale in (1.0, 1.5)]
    rows = F.normalize(bundle.pictures(crops).view(len(boxes), 2, -1).sum(1), dim=-1)
    labels = torch.tensor([known.index(box.name) for box in boxes])
    synonyms = tomllib.loads(MAP.read_text(encoding="utf-8"))["synonyms"]
    result = {}
    for kind, words in (
        ("names", known),
        ("synonyms", [synonyms.get(name, name) for name in known]),
    ):
        right = (rows @ bundle.words(words).T).argmax(1) == labels
        result[f"COCO boxes, {kind}"] = interval(int(right.sum()), len(labels))
    return result


def caltech(bundle: Bundle, folder: Path, data: Path) -> dict[str, tuple[float, float, float]]:
    """20-way on the classes that were held out, and ConSE on the same pictures."""
    shown = [(path, name) for path, name in names.caltech(folder) if name in names.HELD_OUT]
    classes = sorted(names.HELD_OUT)
    labels = torch.tensor([classes.index(name) for _, name in shown])
    crops = [_whole(path) for path, _ in shown]
    right = (bundle.pictures(crops) @ bundle.words(classes).T).argmax(1) == labels
    known = [name for _, name in names.imagenet(data / "imagenet-sample")]
    network = images.pretrained()
    with torch.inference_mode():
        logits = torch.cat([
            network((torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255 - images.MEAN) / images.STD)
            for crop in crops
        ])  # fmt: skip
    text = [
        torch.from_numpy(encode([word.replace("_", " ") for word in each]))
        for each in (known, classes)
    ]
    untrained = (images.conse(logits, text[0]) @ text[1].T).argmax(1) == labels
    return {
        "Caltech, 20 held out": interval(int(right.sum()), len(labels)),
        "Caltech, ConSE with the teacher's text": interval(int(untrained.sum()), len(labels)),
    }


def animals(bundle: Bundle, data: Path) -> dict[str, tuple[float, float, float]]:
    """Animals against eight other names each: one by one those nothing knew, the others together."""
    unknown, known = (
        names.caltech(data / "caltech81"),
        names.tiny_imagenet(data / "tinyimagenet-80", aside=True),
    )
    result = {}
    for name, others in COMPANIONS.items():
        result[f"{name} among {others}"] = interval(*_named(bundle, unknown, name, name, others))
    counts = [_named(bundle, known, name, word, others) for name, word, others in KNOWN]
    right, shown = np.sum(counts, axis=0).tolist()
    return result | {"eight animals that ImageNet knows, 64 pixels": interval(right, shown)}


def _named(
    bundle: Bundle, pictures: Sequence[tuple[Path, str]], name: str, word: str, others: str
) -> tuple[int, int]:
    """How many of the pictures of that name get the word, and how many there are."""
    crops = [_whole(path) for path, found in pictures if found == name]
    words = bundle.words([word, *others.split(", ")])
    return int(((bundle.pictures(crops) @ words.T).argmax(1) == 0).sum()), len(crops)


def small(bundle: Bundle, folder: Path) -> dict[str, tuple[float, float, float]]:
    """Pictures of 32 pixels, 10-way, as CIFAR-10."""
    kinds = {part: kind for kind, parts in SMALL.items() for part in parts.split(", ")}
    shown = [
        (path, kinds[name])
        for path, name in names.tiny_imagenet(folder, aside=True)
        if name in kinds
    ]
    classes = list(SMALL)
    crops = [_whole(path, side=32) for path, _ in shown]
    labels = torch.tensor([classes.index(kind) for _, kind in shown])
    right = (bundle.pictures(crops) @ bundle.words(classes).T).argmax(1) == labels
    return {"pictures of 32 pixels, CIFAR-10's names": interval(int(right.sum()), len(shown))}


def _whole(path: Path, side: int | None = None) -> np.ndarray:
    """A photo squashed to a square, through a smaller one if asked."""
    photo = PIL.Image.open(path).convert("RGB")
    if side:
        photo = photo.resize((side, side), PIL.Image.Resampling.BICUBIC)
    return views.cut(photo, (0, 0, photo.width, photo.height))


def main() -> None:
    """Print each figure; `--json` keeps them."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--bundle", type=Path, default=Path(__file__).parents[1] / "weights/starter/encoder"
    )
    parser.add_argument("--data", type=Path, required=True, help="../shared/data/train, unpacked")
    parser.add_argument("--coco", type=Path, required=True, help="folder of unseen COCO photos")
    parser.add_argument("--photos", default="images", help="its folder of photos")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    bundle = Bundle(options.bundle)
    found = coco_boxes(bundle, options.coco, options.photos)
    found |= caltech(bundle, options.data / "caltech81", options.data)
    found |= animals(bundle, options.data)
    found |= small(bundle, options.data / "tinyimagenet-80")
    for name, (share, low, high) in found.items():
        logger.info("%-75s %5.1f %% (%.1f to %.1f)", name, share, low, high)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
