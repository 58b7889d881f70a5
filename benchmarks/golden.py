"""Scores of a real CLIP without its weights: stored features of photos and names, ranked by the class head.

    .venv/bin/python benchmarks/golden.py ../shared/data/clip-golden --json benchmarks/results/golden.json

The features are those of OpenAI's ViT-B/32 (logit scale 100), of 1,077 photos of Flickr8k with five captions each. A
whole photo is a region with objectness 1; there is no detector, so its label counts for nothing (`label_weight` 0),
except in the rows that take the nearest of COCO's names. There are no features of the background prompts, so these
do not compete. A name is present where a caption has it, a synonym, or a kind of it, by the lexicon; where a caption
has something broader, nobody knows, and the pair is left out. Numbers are chosen on one half of the photos and
checked on the other.
"""

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvocab._internal.files import package_data, read_table
from openvocab.config import ScoringConfig, load_preset
from openvocab.scoring import ClassHead, ImagePrototypes, LabelModel
from openvocab.types import Boxes, EncodedRegions, Features, Image, Proposals
from openvocab.vocabulary import Vocabulary, load_lexicon, synsets_for

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

PRESENT, ABSENT, UNKNOWN = 1, 0, -1
RESAMPLES = 100
FEWEST = 2  # photos with and without a name, for its AUC and AP
EXAMPLES = 5
DEFAULTS = "the defaults"
PRESET = "fast"
# A box of objectness 0.45 needs it to reach the score threshold, if the detector has no label for it.
POSTERIOR = 0.2
# Words of captions that WordNet has as things, but that are colours, numbers, verbs or adjectives
# there, or things that are not in the photo ("looks at the camera").
NOT_THINGS = frozenset(
    "a an the of in on at to by up his her its and or is are as for with from this that these one two three four "  # noqa: SIM905  read better as text
    "five six seven eight nine ten red white black blue green orange pink purple brown yellow gray grey tan gold "
    "turquoise emerald burgundy plaid young old small large big little empty formal get watch watches fly flies "
    "camera flip flips cover covers match cast record records seat lead leads can may being past crosses shot "
    "kiss technical colors trunk trunks scales cricket cap launches steers eating drinking drink drinks mobile "
    "painting paint leather cords miniature fans fan tag rag pick".split()
)
# Captions leave out what everybody wears and has.
UNSAID = ("clothing", "footwear", "body part", "accessory", "eyeglasses", "fastener", "jewelry")


class Stored:
    """An encoder with nothing but its constants: all features are stored."""

    logit_scale = 100.0
    logit_bias = None
    fingerprint = "vit-b-32-openai, stored"

    def encode_regions(self, images: Sequence[Image], boxes: Sequence[Boxes]) -> list[Features]:
        """Not stored."""
        raise NotImplementedError

    def encode_text(self, prompts: Sequence[str]) -> Features:
        """Not stored."""
        raise NotImplementedError


@dataclass(frozen=True)
class Setting:
    """One row of the table: what differs from the defaults of the package."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    labels: bool = False
    """The nearest of COCO's names is the label of a photo."""
    prototypes: bool = False
    """COCO's names have image prototypes."""
    examples: int = 0
    """How many example pictures some classes have, in place of their word."""
    gap_corrected: bool = True
    """Whether example pictures are corrected for the gap between images and texts."""


@dataclass(frozen=True)
class Golden:
    """N photos, K names and L labels, with what the captions say."""

    images: Features
    names: tuple[str, ...]
    text: Features
    labels: tuple[str, ...]
    label_text: Features
    truth: NDArray[np.int8]
    """`(N, K)`: `PRESENT`, `ABSENT` or `UNKNOWN`."""
    label_truth: NDArray[np.bool_]
    """`(N, L)`, whether the captions have the label."""

    @classmethod
    def load(cls, folder: Path, photos: int | None = None) -> "Golden":
        """Read the files that ../shared/data/README.md describes; `photos` of them."""
        with np.load(folder / "vit-b-32-openai-flickr8k.npz") as arrays:
            files, images = arrays["files"][:photos], _unit(arrays["image"][:photos])
        captions = json.loads((folder / "flickr8k_captions.json").read_text())
        labels = tuple(read_table(package_data("configs") / "synsets" / "coco.toml"))
        label_text = _unit(np.load(folder / "coco_clip_a+cname.npy"))
        stored = _stored_names(folder) | dict(zip(labels, label_text, strict=True))
        names = tuple(stored)
        mentions = [_mentions(captions[name]) for name in files.tolist()]
        truth = _truth(names, None, mentions)
        # What everybody wears is not absent where no caption says it.
        kind = load_lexicon().relations(names, UNSAID)
        said = (kind.same + kind.kind).max(axis=1) < 0.3
        return cls(
            images=images,
            names=tuple(name for name, keep in zip(names, said, strict=True) if keep),
            text=np.stack([stored[name] for name in names])[said],
            labels=labels,
            label_text=label_text,
            truth=truth[:, said],
            label_truth=_truth(labels, synsets_for(labels), mentions) == PRESENT,
        )

    @cached_property
    def halves(self) -> tuple[Rows, Rows]:
        """Photos to choose on, and to check on; the files are sorted by name, so these are as random."""
        rows = np.arange(len(self.images))
        return rows[::2], rows[1::2]

    @cached_property
    def base(self) -> NDArray[np.bool_]:
        """`(K,)`: COCO has a label for the name."""
        return self.label_model(None).relate(self.names, self.text).base > 0.5

    @cached_property
    def example_names(self) -> Rows:
        """Names with enough photos to take examples from and to check on."""
        choosing, checking = self.halves
        parts = (choosing[::2], choosing[1::2], checking)
        counts = np.stack([(self.truth[part] == PRESENT).sum(axis=0) for part in parts])
        return np.flatnonzero((counts >= EXAMPLES).all(axis=0))

    @cached_property
    def has_examples(self) -> NDArray[np.bool_]:
        """`(K,)`, the names that can be shown by examples."""
        return np.isin(np.arange(len(self.names)), self.example_names)

    @cached_property
    def nearest_label(self) -> Rows:
        """`(N,)`, the label whose text is nearest to the photo."""
        return (self.images @ self.label_text.T).argmax(axis=1)

    def prototypes(self, photos: Rows) -> ImagePrototypes:
        """The mean of the photos with a label, for the labels that two or more photos have."""
        counts = self.label_truth[photos].sum(axis=0)
        kept = np.flatnonzero(counts >= FEWEST)
        means = self.label_truth[photos][:, kept].T.astype(np.float32) @ self.images[photos]
        labels = tuple(self.labels[row] for row in kept)
        return ImagePrototypes(labels, _unit(means), Stored.fingerprint)

    def label_model(
        self, photos: Rows | None, config: ScoringConfig | None = None, *, gap: bool = True
    ) -> LabelModel:
        """COCO's labels, with prototypes and the gap of these photos, if any."""
        config = config or ScoringConfig()

        def build(prototypes: ImagePrototypes | None, weight: float) -> LabelModel:
            return LabelModel.build(
                self.labels,
                self.label_text,
                self.label_text[:0],
                prototypes,
                prototype_weight=weight,
                use_lexicon=config.lexicon,
            )

        if photos is None:
            return build(None, 0.0)
        prototypes = self.prototypes(photos)
        measured_gap = build(prototypes, 1.0).modality_gap if gap else 0.0
        return dataclasses.replace(
            build(prototypes, config.prototype_weight), modality_gap=measured_gap
        )

    def score(self, setting: Setting, photos: Rows, sources: Rows) -> Floats:
        """Posterior `(n, K)` of photos; examples and prototypes are of `sources`."""
        values: dict[str, Any] = {"label_weight": 0.0, "background": ()} | setting.config
        config = ScoringConfig(**values)
        if not setting.prototypes:
            config = dataclasses.replace(config, prototype_weight=0.0)
        needed = setting.prototypes or setting.examples
        labels = self.label_model(sources if needed else None, config, gap=setting.gap_corrected)
        if setting.gap_corrected:  # on top of the offset
            offset = config.example_offset + labels.modality_gap
            config = dataclasses.replace(config, example_offset=offset)
        head = ClassHead.build(
            self._vocabulary(setting, sources), labels, self.text[:0], Stored(), config
        )
        boxes = np.tile(np.array([0, 0, 224, 224], np.float32), (len(photos), 1))
        label_ids = self.nearest_label[photos] if setting.labels else np.zeros(len(photos), np.intp)
        proposals = Proposals(boxes, np.ones(len(photos), np.float32), label_ids)
        return head.score(EncodedRegions(proposals, self.images[photos])).posterior.astype(float)

    def _vocabulary(self, setting: Setting, sources: Rows) -> Vocabulary:
        """Every name by its word, but some by examples, if the setting says so."""
        features, class_ids, words = [], [], []
        by_example = set(self.example_names.tolist()) if setting.examples else set()
        random = np.random.default_rng(0)
        for row, name in enumerate(self.names):
            chosen = self.text[row, None]
            if row in by_example:
                shown = random.permutation(sources[self.truth[sources, row] == PRESENT])
                chosen = self.images[shown[: setting.examples]]
            features.append(chosen)
            class_ids += [row] * len(chosen)
            words += [None if row in by_example else name] * len(chosen)
        return Vocabulary(
            self.names, np.concatenate(features), np.array(class_ids), tuple(words), "stored"
        )

    def scored(self, setting: Setting) -> tuple[tuple[Rows, Floats], tuple[Rows, Floats]]:
        """Both halves with their scores; no photo is scored by examples or prototypes of its own.

        The choosing half is cut in two, which serve each other; the checking half is served by it.
        """
        choosing, checking = self.halves
        one, other = choosing[::2], choosing[1::2]
        scores = [self.score(setting, *pair) for pair in ((one, other), (other, one))]
        first = np.concatenate([one, other]), np.concatenate(scores)
        return first, (checking, self.score(setting, checking, choosing))


def _unit(rows: NDArray[Any]) -> Features:
    exact = rows.astype(np.float32)
    return exact / np.linalg.norm(exact, axis=1, keepdims=True)


def _stored_names(folder: Path) -> dict[str, Features]:
    """The names of LVIS, Open Images and Objects365 with their features; each name once."""
    table = json.loads((folder / "lvis_v1_train_cat_info.json").read_text())
    lists = [([row["name"] for row in table], np.load(folder / "lvis_v1_clip_a+cname.npy"))]
    with np.load(folder / "vit-b-32-openai-names.npz") as arrays:
        lists += [(arrays[f"{key}_names"], arrays[key]) for key in ("openimages", "objects365")]
    stored: dict[str, Features] = {}
    for names, features in lists:
        for name, feature in zip(names, _unit(features), strict=True):
            plain = str(name).replace("_", " ").casefold()
            if plain.replace(" ", "").isalpha() and not plain.startswith("other "):
                stored.setdefault(plain, feature)
    return stored


def _mentions(captions: Sequence[str]) -> set[str]:
    """Nouns of captions that the lexicon has: the longest phrases of up to three words."""
    found = set()
    for caption in captions:
        words = re.findall(r"[a-z]+(?:[-'][a-z]+)*", caption.casefold())
        at = 0
        while at < len(words):
            length = next((size for size in (3, 2) if _is_noun(words[at : at + size], size)), 1)
            if _is_noun(words[at : at + length], length):
                found.add(" ".join(words[at : at + length]))
            at += length
    return found


def _is_noun(words: Sequence[str], length: int) -> bool:
    if len(words) < length or len(words[0]) < 3 or words[0] in NOT_THINGS:
        return False
    senses = load_lexicon().senses(" ".join(words))
    return bool(senses) and not senses[0].is_head and words[-1] not in NOT_THINGS


def _truth(
    names: Sequence[str], synsets: Sequence[str | None] | None, mentions: Sequence[set[str]]
) -> NDArray[np.int8]:
    """Whether each name is in each photo `(N, K)`, by what its captions mention."""
    nouns = sorted(set().union(*mentions))
    relations = load_lexicon().relations(nouns, names, synsets)
    # A noun that is a kind of the name, or the same, says that the name is present.
    is_name = relations.same + relations.kind
    perhaps = np.maximum(relations.broader, np.where(is_name < 0.5, is_name, 0))
    rows = {noun: row for row, noun in enumerate(nouns)}
    result = np.zeros((len(mentions), len(names)), np.int8)
    for photo, mentioned in enumerate(mentions):
        said = [rows[noun] for noun in mentioned]
        result[photo, perhaps[said].max(axis=0, initial=0) > 0.15] = UNKNOWN
        result[photo, is_name[said].max(axis=0, initial=0) >= 0.5] = PRESENT
    return result


def _average_precision(present: Floats, weights: Floats) -> float:
    """Of pairs, the best first."""
    hits = np.cumsum(present * weights)
    precision = hits / np.maximum(np.cumsum(weights), 1e-9)
    return float((precision * present * weights).sum() / max(hits[-1], 1e-9)) if len(hits) else 0.0


@dataclass(frozen=True)
class Ranked:
    """All pairs of photo and name of one half that are known, the best first."""

    scores: Floats
    present: Floats
    photo: Rows
    name: Rows

    @classmethod
    def of(cls, scores: Floats, truth: NDArray[np.int8], names: Rows | None = None) -> "Ranked":
        """Flatten `(N, K)`; `names` are the columns that count."""
        known = truth != UNKNOWN
        if names is not None:
            known &= np.isin(np.arange(truth.shape[1]), names)
        photo, name = np.nonzero(known)
        order = np.argsort(-scores[known], kind="stable")
        present = (truth[known] == PRESENT).astype(float)
        return cls(scores[known][order], present[order], photo[order], name[order])

    def average_precision(self) -> float:
        """Pooled over all names: what one threshold can do."""
        return 100 * _average_precision(self.present, np.ones(len(self.present)))

    def even_average_precision(self, photo_weights: Floats | None = None) -> float:
        """The same as if every name were in one photo of eleven: callers ask for what may be there.

        Without it, `person` and `dog` are most of what is present, and names that no caption has
        are most of what is absent.
        """
        weights = np.ones(len(self.photo)) if photo_weights is None else photo_weights[self.photo]
        present = np.bincount(self.name, self.present * weights)
        absent = np.bincount(self.name, (1 - self.present) * weights)
        enough = (present >= FEWEST) & (absent >= FEWEST)
        share = np.where(
            self.present > 0, 1 / present.clip(1)[self.name], 10 / absent.clip(1)[self.name]
        )
        weights = weights * share * enough[self.name]
        return 100 * _average_precision(self.present, weights)

    def at(self, threshold: float) -> tuple[float, float]:
        """Mean share over names, in percent, of present and of absent pairs that reach a threshold."""
        shares = []
        for wanted in (self.present, 1 - self.present):
            count = np.bincount(self.name, wanted)
            reached = np.bincount(self.name, wanted * (self.scores >= threshold))
            shares.append(100 * float((reached[count > 0] / count[count > 0]).mean()))
        return shares[0], shares[1]

    def calibration_error(self) -> float:
        """Expected calibration error in percent, by ten equal bins of the score.

        Most pairs are absent and have a score of nearly 0, so only pairs from 0.05 on count.
        """
        rows = self.scores >= 0.05
        if not rows.any():
            return 100.0
        bins = np.minimum((self.scores[rows] * 10).astype(int), 9)
        error = np.bincount(bins, self.scores[rows] - self.present[rows])
        return float(100 * np.abs(error).sum() / rows.sum())

    def best_threshold(self) -> float:
        """Where F1 is largest."""
        hits = np.cumsum(self.present)
        f1 = 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1])
        return float(self.scores[f1.argmax()])

    def f1(self, threshold: float) -> float:
        """At one threshold for all names."""
        rows = self.scores >= threshold
        return float(200 * self.present[rows].sum() / max(rows.sum() + self.present.sum(), 1))

    def by_name(self) -> tuple[float, float]:
        """Mean AUC and mean AP of the names with enough photos, in percent."""
        found = []
        for name in np.flatnonzero(np.bincount(self.name, self.present) >= FEWEST):
            present = self.present[self.name == name]
            absent_before = np.cumsum(1 - present)
            if absent_before[-1] >= FEWEST:
                above = 1 - absent_before[present > 0] / absent_before[-1]
                found.append((above.mean(), _average_precision(present, np.ones(len(present)))))
        auc, precision = np.mean(found, axis=0) if found else (0.0, 0.0)
        return 100 * float(auc), 100 * float(precision)


def measure(golden: Golden, settings: Iterable[Setting]) -> list[dict[str, Any]]:
    """A row for each setting; the first is what the others are compared with."""
    rows: list[dict[str, Any]] = []
    count = len(golden.halves[1])
    share = np.full(count, 1 / count)
    samples = np.random.default_rng(0).multinomial(count, share, RESAMPLES).astype(float)
    reference = np.empty(0)
    for setting in settings:
        (choosing, scores), (checking, checked) = golden.scored(setting)
        threshold = Ranked.of(scores, golden.truth[choosing]).best_threshold()
        ranked = Ranked.of(checked, golden.truth[checking])
        sampled = np.array([ranked.even_average_precision(sample) for sample in samples])
        reference = reference if len(reference) else sampled
        row = {
            "name": setting.name,
            "choosing": _figures(golden, scores, golden.truth[choosing], threshold),
            "checking": _figures(golden, checked, golden.truth[checking], threshold),
            "interval": np.percentile(sampled - reference, (2.5, 97.5)).round(2).tolist(),
        }
        print(json.dumps(row), file=sys.stderr)  # noqa: T201  progress
        rows.append(row)
    return rows


def _figures(
    golden: Golden, scores: Floats, truth: NDArray[np.int8], threshold: float
) -> dict[str, float]:
    """The figures of one half, in percent, and the threshold that the choosing half has chosen."""
    ranked = Ranked.of(scores, truth)
    base, novel, shown = (
        Ranked.of(scores, truth, np.flatnonzero(rows))
        for rows in (golden.base, ~golden.base, golden.has_examples)
    )
    auc, within = ranked.by_name()
    found, wrong = shown.at(POSTERIOR)
    figures = {
        "AP": ranked.average_precision(),
        "AP even": ranked.even_average_precision(),
        "AP of labels": base.average_precision(),
        "AP of others": novel.average_precision(),
        "AP within": within,
        "AUC": auc,
        "ECE": ranked.calibration_error(),
        "F1": ranked.f1(threshold),
        "found": found,
        "wrong": wrong,
        "AP of these": shown.even_average_precision(),
        "AUC of these": shown.by_name()[0],
    }
    return {key: round(value, 2) for key, value in figures.items()} | {"threshold": threshold}


def gap(golden: Golden) -> dict[str, float]:
    """How near images and texts of different labels are to each other, and the gap."""
    prototypes = golden.prototypes(golden.halves[0])
    image, known = prototypes.for_labels(golden.labels)
    image, text = image[known], golden.label_text[known]
    apart = ~np.eye(len(image), dtype=bool)
    photos = golden.images[golden.halves[0]]
    pairs = np.triu_indices(len(photos), 1)
    return {
        "text to text": float((text @ text.T)[apart].mean()),
        "photo to text": float((photos @ golden.label_text.T).mean()),
        "photo to photo": float((photos @ photos.T)[pairs].mean()),
        "prototype to text": float((image @ text.T)[apart].mean()),
        "prototype to its own text": float((image * text).sum(axis=1).mean()),
        "prototype to prototype": float((image @ image.T)[apart].mean()),
        "gap": golden.label_model(golden.halves[0]).modality_gap,
        "prototypes": float(len(image)),
    }


# Values to try; what the defaults have already is left out.
VALUES: dict[str, tuple[Any, ...]] = {
    "logit_scale": (20.0, 30.0, 50.0, 70.0),
    "novel_weight": (0.1, 0.3, 1.0, 3.0, 8.0, 20.0, 100.0),
    "competitor_weight": (0.25, 1.0, 4.0, 16.0, 64.0),
    "lexicon": (False,),
}


def word_settings() -> Iterator[Setting]:
    """Classes by their words: one change at a time, then what depends on each other."""
    defaults = dataclasses.asdict(ScoringConfig())
    yield Setting(DEFAULTS)
    for key, values in VALUES.items():
        for value in values:
            if value != defaults[key]:
                yield Setting(f"`{key}` {json.dumps(value)}", {key: value})
    for novel in (1.0, 8.0):
        config = {"novel_weight": novel}
        for scale in (50.0, 70.0):
            name = f"`novel_weight` {novel:g}, `logit_scale` {scale:g}"
            yield Setting(name, config | {"logit_scale": scale})
        for weight in (0.5, 1.5):
            name = f"`novel_weight` {novel:g}, nearest label, `label_weight` {weight:g}"
            yield Setting(name, config | {"label_weight": weight}, labels=True)
        for weight in (0.0, 0.35, 0.5):
            name = f"`novel_weight` {novel:g}, prototypes, `prototype_weight` {weight:g}"
            yield Setting(name, config | {"prototype_weight": weight}, prototypes=True)


def preset_numbers() -> dict[str, Any]:
    """What the presets of CLIPs set under `[scoring]`."""
    scoring, defaults = load_preset(PRESET).scoring, ScoringConfig()
    names = (spec.name for spec in dataclasses.fields(scoring))
    values = ((name, getattr(scoring, name)) for name in names)
    return {name: value for name, value in values if value != getattr(defaults, name)}


def example_settings() -> Iterator[Setting]:
    """Some classes by example pictures, among classes by their words."""
    preset = preset_numbers()
    yield Setting("by their words", preset)
    for count in (1, EXAMPLES):
        pictures = "one picture" if count == 1 else f"{count} pictures"
        for gap_corrected, offsets in (
            (False, (0.0, 0.04, 0.08, 0.3, 0.4, 0.45, 0.5, 0.55)),
            (True, (-0.08, -0.04, 0.0, 0.04, 0.08)),
        ):
            corrected = "gap corrected" if gap_corrected else "gap ignored"
            for offset in offsets:
                name = f"{pictures}, {corrected}, `example_offset` {offset:g}"
                config = preset | {"example_offset": offset}
                yield Setting(name, config, examples=count, gap_corrected=gap_corrected)


WORD_COLUMNS = (
    "AP", "AP even", "AP of labels", "AP of others", "AP within", "AUC", "ECE", "F1",
)  # fmt: skip
EXAMPLE_COLUMNS = ("AP even", "AP of these", "AUC of these", "found", "wrong")


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """Markdown: each figure on the choosing and the checking half."""
    head = ["", *columns, "AP even against the first row"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [f"{row['choosing'][key]:.1f} / {row['checking'][key]:.1f}" for key in columns]
        low, high = row["interval"]
        lines.append(f"| {row['name']} | {' | '.join(cells)} | {low:+.1f} to {high:+.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, write the figures and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="clip-golden")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--photos", type=int, help="only the first so many")
    options = parser.parse_args()
    golden = Golden.load(options.folder, options.photos)
    results: dict[str, Any] = {
        "photos": len(golden.images),
        "names": len(golden.names),
        "mentioned": int((golden.truth == PRESENT).any(axis=0).sum()),
        "defaults": dataclasses.asdict(ScoringConfig()),
        "by examples": [golden.names[row] for row in golden.example_names],
        "cosines": gap(golden),
        "words": measure(golden, word_settings()),
        "examples": measure(golden, example_settings()),
    }
    options.json.write_text(json.dumps(results, indent=1) + "\n")
    for key, columns in (("words", WORD_COLUMNS), ("examples", EXAMPLE_COLUMNS)):
        print(f"\n{table(results[key], columns)}")  # noqa: T201
    print(f"\n{json.dumps(results['cosines'], indent=1)}")  # noqa: T201


if __name__ == "__main__":
    main()
