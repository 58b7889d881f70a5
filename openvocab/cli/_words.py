"""`openvocab explain-word`: how the lexicon and the text encoder relate a word to the labels."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from openvocab.cli import _options as options
from openvocab.cli._console import out, write_json
from openvocab.errors import one_line

if TYPE_CHECKING:
    from openvocab.detector import OpenVocabDetector
    from openvocab.scoring import ClassHead

_MAX_RELATED = 8
_MAX_LIKELY = 5
_MIN_SHARE = 0.01  # of a word's meaning; smaller ones would be printed as 0.00
_MIN_NEARNESS = 0.25  # loosely related things, such as two animals, are at 0.3
_RELATIONS = ("the same as", "a kind of", "broader than")

Floats = NDArray[np.float32]


def explain_word(
    word: Annotated[str, typer.Argument(help="A name as you would give it in --classes.")],
    *,
    preset: options.PresetName = "starter",
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE|-", help="Write the result as JSON.")
    ] = None,
    device: options.Device = None,
) -> None:
    """Explain how the lexicon and the text encoder interpret WORD.

    Prints the senses of the word, how it is related to the detector's labels, which labels its
    boxes are likely to get, which labels compete with it, and the resulting scoring parameters.
    """
    from openvocab.detector import OpenVocabDetector

    detector = OpenVocabDetector.from_preset(options.read_preset(preset), device=device)
    record = {"preset": preset} | describe_word(detector, word)
    payload = (json.dumps(record, ensure_ascii=False, indent=1) + "\n").encode()
    if write_json(payload, json_file):
        return
    for line in word_lines(record):
        out.print(one_line(line), soft_wrap=True)
    if record["related"]:
        out.print(_table(record))


def describe_word(detector: "OpenVocabDetector", word: str) -> dict[str, Any]:
    """Describe how a detector handles a word, as a JSON-able record of rounded numbers.

    Args:
        detector: gives the labels, the encoder and the scoring.
        word: one name.

    Raises:
        ClassesError: the word is empty.
    """
    from openvocab.vocabulary import load_lexicon

    head = detector.class_head([word])
    word_relations = _WordRelations.of(detector, head, word)
    senses = load_lexicon().senses(word) if detector.label_model.synsets is not None else ()
    return {
        "word": word,
        "labels": len(head.labels),
        "lexicon": detector.label_model.synsets is not None,
        "senses": [
            {"synset": sense.synset, "share": _rounded(sense.weight), "head_only": sense.is_head}
            for sense in senses
        ],
        "class": "base" if word_relations.base >= 0.5 else "novel",
        "covered": _rounded(word_relations.base),
        "fusion_exponent": _rounded(head.exponents[0]),
        "prior_odds": _rounded(np.exp(head.evidence.prior[0])),
        "likely_labels": _best(head.labels, word_relations.likelihood, "probability"),
        "text_encoder": _best(head.labels, word_relations.text, "similarity"),
        "competitors": _competitors(detector, head, word_relations.competes),
        "related": word_relations.related(head.labels),
    }


class _WordRelations(NamedTuple):
    """How one word is related to the L labels of a detector; arrays are `(L,)`."""

    relations: Floats
    """`(3, L)`, shares of its meaning: the same, a kind of the label, broader than the label."""
    nearness: Floats
    """Nearness in the lexicon; NaN if it lacks the word or the label."""
    text: Floats
    """Similarity of the text features, from 0 (unrelated) to 1 (the same)."""
    likelihood: Floats
    competes: Floats
    base: float

    @classmethod
    def of(cls, detector: "OpenVocabDetector", head: "ClassHead", word: str) -> "_WordRelations":
        from openvocab.scoring._log_odds import normalized_similarity
        from openvocab.vocabulary import load_lexicon, synsets_for

        model = detector.label_model
        features = detector.vocabulary([word]).features
        label_relations = model.relate([word], features)
        # Without the lexicon, a label that covers the word is reported as the same.
        relations = np.zeros((3, len(model.labels)), np.float32)
        relations[0] = label_relations.covers[0]
        nearness = np.full(len(model.labels), np.nan, np.float32)
        if model.synsets is not None:
            lexicon = load_lexicon().relations([word], model.labels, synsets_for(model.labels))
            if lexicon.known[0]:
                relations = np.concatenate([lexicon.same, lexicon.kind, lexicon.broader])
                nearness = np.where(lexicon.label_known, lexicon.nearness[0], nearness)
        start = head.competitor_weights.shape[1] - len(model.labels) - (head.logit_bias is not None)
        return cls(
            relations=relations,
            nearness=nearness,
            text=normalized_similarity(features, model.text, model.baseline)[0],
            likelihood=label_relations.likelihood[0],
            competes=head.competitor_weights[0, start : start + len(model.labels)],
            base=float(label_relations.base[0]),
        )

    def related(self, labels: tuple[str, ...]) -> list[dict[str, Any]]:
        """The labels that are related to the word, then the nearest of the others."""
        similarity = np.where(np.isnan(self.nearness), self.text, (self.text + self.nearness) / 2)
        share = self.relations.max(axis=0)
        share = np.where(share >= _MIN_SHARE, share, 0)
        order = np.lexsort((-similarity, -share))
        is_listed = (share > 0) | (similarity >= _MIN_NEARNESS)
        return [
            {
                "label": labels[label_id],
                "relation": self._relation(label_id) if share[label_id] else "near",
                "share": _rounded(share[label_id]),
                "nearness": _rounded_or_none(self.nearness[label_id]),
                "text_similarity": _rounded(self.text[label_id]),
                "probability": _rounded(self.likelihood[label_id]),
                "competes": _rounded(self.competes[label_id]),
            }
            for label_id in order[is_listed[order]][:_MAX_RELATED].tolist()
        ]

    def _relation(self, label_id: int) -> str:
        return _RELATIONS[self.relations[:, label_id].argmax()]


def _competitors(
    detector: "OpenVocabDetector", head: "ClassHead", competes: Floats
) -> dict[str, Any]:
    """The number of labels that compete fully; the others by name, the weakest first."""
    background = detector.preset.scoring.background
    order = np.argsort(competes, kind="stable").tolist()
    return {
        "fully": int((competes == 1).sum()),
        "less": {
            head.labels[label_id]: _rounded(competes[label_id])
            for label_id in order
            if 0 < competes[label_id] < 1
        },
        "not_at_all": [head.labels[label_id] for label_id in order if competes[label_id] == 0],
        "background_not_at_all": [
            prompt
            for prompt, weight in zip(background, head.competitor_weights[0].tolist(), strict=False)
            if weight == 0
        ],
    }


def _best(labels: tuple[str, ...], values: Floats, name: str) -> list[dict[str, Any]]:
    order = np.argsort(-values, kind="stable")[:_MAX_LIKELY].tolist()
    return [{"label": labels[label_id], name: _rounded(values[label_id])} for label_id in order]


def _rounded(value: float | np.floating) -> float:
    """To four digits, without negative zero."""
    return round(float(value), 4) + 0.0


def _rounded_or_none(value: float | np.floating) -> float | None:
    return None if np.isnan(value) else _rounded(value)


def word_lines(record: dict[str, Any]) -> Iterator[str]:
    """The record of `describe_word` as text, without the table of related labels."""
    word = record["word"]
    if record["senses"]:
        yield f"{word} means {', '.join(map(_sense, record['senses']))}"
    elif record["lexicon"]:
        yield f"{word} is not in the lexicon: only the text encoder relates it to the labels"
    else:
        yield "the lexicon is not used: only the text encoder relates words to the labels"
    nearest = [f"{row['label']} {row['similarity']:.2f}" for row in record["text_encoder"]]
    yield f"nearest to the text encoder: {', '.join(nearest)}"
    yield (
        f"{record['class']} class: the detector's {record['labels']} labels cover "
        f"{100 * record['covered']:.0f} % of its meaning; so its fusion exponent is "
        f"{record['fusion_exponent']:.2f} and its prior odds are {record['prior_odds']:.1f}"
    )
    likely = [f"{row['label']} {row['probability']:.2f}" for row in record["likely_labels"]]
    yield f"P(label | {word}): {', '.join(likely)}"
    competitors = record["competitors"]
    less = [f"{name} {weight:.2f}" for name, weight in competitors["less"].items()]
    not_at_all = [*competitors["not_at_all"]]
    not_at_all += [f"{name} (background)" for name in competitors["background_not_at_all"]]
    parts = [f"{competitors['fully']} labels fully"]
    parts += [f"less: {_few(less)}"] if less else []
    parts += [f"not at all: {_few(not_at_all)}"] if not_at_all else []
    yield f"compete with it: {'; '.join(parts)}"
    if not record["related"]:
        yield "no label is related to it"


def _sense(sense: dict[str, Any]) -> str:
    """One sense and its share."""
    note = " (a kind of it: only its head noun is known)" if sense["head_only"] else ""
    return f"{sense['synset']} {sense['share']:.2f}{note}"


def _few(names: list[str]) -> str:
    omitted = len(names) - _MAX_RELATED
    return ", ".join(names[:_MAX_RELATED]) + (f" and {omitted} more" if omitted > 0 else "")


def _table(record: dict[str, Any]) -> Table:
    headers = ("relation", "label", "share", "nearness", "text", "P(label)", "competes")
    table = Table(*headers, box=None, pad_edge=False)
    for row in record["related"]:
        share = f"{row['share']:.2f}" if row["share"] else "-"
        nearness = "-" if row["nearness"] is None else f"{row['nearness']:.2f}"
        numbers = (row[key] for key in ("text_similarity", "probability", "competes"))
        table.add_row(
            row["relation"], row["label"], share, nearness, *(f"{value:.2f}" for value in numbers)
        )
    return table
