"""Presets: two models, how boxes are proposed, and how they are scored; read from a TOML file."""

import json
import os
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self, get_args, get_origin

from openvocab._internal.files import package_data, read_table
from openvocab.errors import ConfigError, describe, did_you_mean

__all__ = [
    "ModelConfig",
    "Preset",
    "ProposalConfig",
    "ScoringConfig",
    "available_presets",
    "load_preset",
]

_TYPE_NAMES: dict[Any, str] = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    tuple: "a list",
    dict: "a table",
}


class _Section:
    """A dataclass that checks the types and ranges of its fields when it is made."""

    __slots__ = ()
    RANGES: ClassVar[dict[str, tuple[float, float]]] = {}
    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {}

    def __post_init__(self) -> None:
        for spec in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value = getattr(self, spec.name)
            if value is None and spec.default is None:
                continue
            if isinstance(value, list | os.PathLike):
                value = tuple(value) if isinstance(value, list) else os.fspath(value)
                object.__setattr__(self, spec.name, value)
            expected, *parts = _types(spec.type)
            elements = value if parts and isinstance(value, tuple) else ()
            expected_name = _TYPE_NAMES.get(expected, f"a {getattr(expected, '__name__', '')}")
            if not _is_a(value, expected) or not all(_is_a(part, *parts) for part in elements):
                raise ConfigError(f"{spec.name} is {describe(value)}; give {expected_name}.")
            low, high = self.RANGES.get(spec.name, (None, None))
            if low is not None and not low <= value <= high:
                raise ConfigError(f"{spec.name} is {value}; use {low} to {high}.")
            choices = self.CHOICES.get(spec.name, (value,))
            if value not in choices:
                raise ConfigError(f"{spec.name} is {value!r}; use one of {', '.join(choices)}.")


@dataclass(frozen=True, slots=True)
class ModelConfig(_Section):
    """The two models, and how they are to be loaded.

    Raises:
        ConfigError: a value has the wrong type.
    """

    detector: str
    """Name of weights (`openvocab weights list`), or path of a file that Ultralytics can load."""
    encoder: str
    """Name of weights, path of an open_clip bundle, or `MODEL:TAG` from open_clip's cache."""
    templates: str = "simple"
    """Prompt templates that the encoder was trained for: `none`, `simple` or `openai`."""
    prototypes: str | None = None
    """Path of image prototypes of the detector's labels (`openvocab calibrate --unlabelled`)."""
    trust_pickle: bool = False
    """Allow `.pt` detectors, which can run any code when loaded; only for files that you trust."""


@dataclass(frozen=True, slots=True)
class ProposalConfig(_Section):
    """Which boxes are proposed and encoded. What is measured is in docs/accuracy.md.

    Raises:
        ConfigError: a value has the wrong type or is out of range.
    """

    RANGES: ClassVar[dict[str, tuple[float, float]]] = {
        "threshold": (0, 1),
        "iou": (0, 1),
        "max_boxes": (1, 10_000),
        "max_regions": (1, 10_000),
        "image_size": (32, 8192),
        "tile_size": (64, 8192),
        "context_scale": (1, 8),
    }

    threshold: float = 0.001
    """Lowest objectness. Boxes that cannot reach the score threshold of a call are not encoded
    either, so a low value costs little."""
    iou: float = 0.7
    """IoU above which the weaker of two boxes of the same label is dropped."""
    max_boxes: int = 300
    """Boxes per image; the best are kept."""
    max_regions: int | None = None
    """Boxes per image that are encoded or tracked; the best are kept. None sets no limit."""
    image_size: int | None = None
    """Longer side of the detector's input in pixels; None uses the size it was trained for."""
    tile_size: int | None = None
    """Side in pixels of tiles that are detected in addition to the whole image; None for none."""
    context_scale: float = 1.25
    """Size of a crop relative to its box."""


@dataclass(frozen=True, slots=True)
class ScoringConfig(_Section):
    """How a box is scored; the terms are defined in `openvocab.scoring._log_odds`.

    The defaults are those calibrated for the starter preset (docs/accuracy.md).

    Raises:
        ConfigError: a value has the wrong type or is out of range.
    """

    RANGES: ClassVar[dict[str, tuple[float, float]]] = {
        "logit_scale": (0.01, 200),
        "competitor_weight": (1e-3, 1e3),
        "label_weight": (0, 10),
        "rank_weight": (0, 50),
        "prototype_weight": (0, 1),
        "novel_weight": (1e-3, 1e6),
        "novel_fusion_exponent": (0, 1),
        "example_offset": (-1, 1),
        "fusion_exponent": (0, 1),
        "score_threshold": (0, 1),
        "nms_iou": (0, 1),
    }
    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {"pooling": ("examples", "mean", "best")}

    logit_scale: float | None = None
    """Factor on the cosine; None uses the encoder's own."""
    background: tuple[str, ...] = ("background", "texture", "wall", "floor", "sky", "grass")
    """Prompts that compete with every class and are never returned. With a detector that has no
    labels of its own, they are the only competitors."""
    competitor_weight: float = 4.0
    """Prior odds of a background prompt or of a label of the detector, relative to a class."""
    label_weight: float = 1.5
    """Weight of the log-likelihood of a fully confident label, P(label | class); 0 ignores it."""
    rank_weight: float = 10.0
    """The same, once more, in the choice between classes; not in the score."""
    lexicon: bool = True
    """What words mean to each other comes from WordNet as well as from the text encoder."""
    prototype_weight: float = 0.5
    """Weight of what a label looks like, relative to its text, where the preset has prototypes."""
    pooling: str = "examples"
    """Which prototypes of a class are averaged: its `examples`, all (`mean`), or none (`best`)."""
    novel_weight: float = 20.0
    """Prior odds of a class that the detector has no label for, relative to one that it has."""
    novel_fusion_exponent: float = 0.5
    """`fusion_exponent` of such a class: objectness of a thing without a label is no measure."""
    example_offset: float = 0.06
    """Subtracted from the similarity to an example image: images are more similar to each other
    than to texts. 0.5 for CLIP."""
    fusion_exponent: float = 0.3
    """Weight of the posterior relative to objectness, from 0 to 1."""
    score_threshold: float = 0.3
    """Detections with a lower score are not returned."""
    nms_iou: float = 0.6
    """IoU above which the lower-scored of two detections is dropped by NMS."""
    class_agnostic_nms: bool = False
    """Apply NMS across classes, not only within each class."""


@dataclass(frozen=True, slots=True)
class Preset(_Section):
    """Two models and the settings calibrated for them.

    Raises:
        ConfigError: a value has the wrong type or is out of range.

    >>> preset = Preset(ModelConfig(detector="yolo.onnx", encoder="bundle"))
    >>> preset.scoring.score_threshold
    0.3
    """

    models: ModelConfig
    proposals: ProposalConfig = field(default_factory=ProposalConfig)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    thresholds: dict[str, float] = field(default_factory=dict)
    """Lowest scores of some classes, by name, if a call has them and gives no threshold itself."""
    name: str = "custom"
    """Name shown in tables and reports."""
    description: str = ""
    """One line that helps to choose among presets."""

    def __post_init__(self) -> None:
        _Section.__post_init__(self)
        for name, value in self.thresholds.items():
            if not _is_a(value, float) or not 0 <= value <= 1:
                raise ConfigError(f"thresholds has {value!r} for {name!r}; use 0 to 1.")

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Read a TOML file with the tables `[models]`, `[proposals]`, `[scoring]`, `[thresholds]`.

        Paths of models are relative to the file; `name` defaults to the file's stem.

        Raises:
            ConfigError: the file cannot be read, a key is unknown or missing, or a value has the
                wrong type or is out of range.
        """
        path = Path(path).absolute()
        if not path.is_file():
            raise ConfigError(f"There is no preset {path}; check the path.")
        table = {"name": path.stem} | read_table(path)
        try:
            _check_keys(table, cls)
            sections: dict[str, Any] = {}
            for section in (ModelConfig, ProposalConfig, ScoringConfig):
                name = _SECTION_NAMES[section]
                values = table.get(name, {})
                _check_keys(values, section, f"[{name}] ")
                if section is ModelConfig:
                    values = _resolve_paths(values, path.parent)
                sections[name] = section(**values)
            return cls(**(table | sections))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    def to_toml(self) -> str:
        """Write the fields that differ from the defaults as TOML, for `from_file` to read.

        >>> preset = Preset(ModelConfig("yolo.onnx", "bundle"), ProposalConfig(iou=0.5))
        >>> print(preset.to_toml())
        [models]
        detector = "yolo.onnx"
        encoder = "bundle"
        <BLANKLINE>
        [proposals]
        iou = 0.5
        <BLANKLINE>
        """
        lines = [_line(key, getattr(self, key)) for key in ("description",) if getattr(self, key)]
        for section, name in _SECTION_NAMES.items():
            values = getattr(self, name)
            changed = [
                _line(spec.name, getattr(values, spec.name))
                for spec in fields(section)
                if getattr(values, spec.name) != spec.default
            ]
            if changed:
                lines += ["", f"[{name}]", *changed]
        if self.thresholds:
            by_class = [_line(json.dumps(key), value) for key, value in self.thresholds.items()]
            lines += ["", "[thresholds]", *by_class]
        return "\n".join(lines).lstrip("\n") + "\n"

    def with_sizes(self, image_size: int | None, tile_size: int | None) -> Self:
        """The preset with another input size or tile size; None keeps the preset's."""
        sizes = {"image_size": image_size, "tile_size": tile_size}
        changed = {name: size for name, size in sizes.items() if size is not None}
        return replace(self, proposals=replace(self.proposals, **changed))


_SECTION_NAMES: dict[Any, str] = {
    ModelConfig: "models",
    ProposalConfig: "proposals",
    ScoringConfig: "scoring",
}
_SECTION_OF_KEY = {
    spec.name: name for section, name in _SECTION_NAMES.items() for spec in fields(section)
}


_RENAMED_KEYS = {
    "proposal_threshold": "is 'threshold' in [proposals]; rename it",
    "proposal_iou": "is 'iou' in [proposals]; rename it",
    "context_scales": "is 'context_scale', one number, in [proposals]; replace it",
    "background_weight": "is 'competitor_weight' in [scoring]; rename it",
    "prior_weight": "is replaced by 'label_weight' in [scoring]; remove it",
    "label_prior": "is gone (label_weight = 0 ignores labels); remove it",
    "hyponyms": "is replaced by 'lexicon' in [scoring]; remove it",
    "rank_by_label": "is gone; remove it",
    "prior_scale": "is a constant now; remove it",
    "prior_floor": "is a constant now; remove it",
}
"""Keys of the former flat presets, and what to do about them."""


def _check_keys(values: dict[str, Any], section: Any, where: str = "") -> None:  # noqa: ANN401
    """Refuse unknown keys, keys of another table, and missing keys."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where}is not a table; write the keys below it.")
    names = [spec.name for spec in fields(section)]
    for key in values:
        if key not in names:
            raise ConfigError(_unknown_key(key, names, where))
    required = [spec.name for spec in fields(section) if spec.default is MISSING]
    for key in required if section is ModelConfig else ():
        if key not in values:
            raise ConfigError(f"key {key!r} is missing in [models]; add it.")


def _unknown_key(key: str, names: list[str], where: str) -> str:
    if key in _RENAMED_KEYS:
        return f"key {key!r} {_RENAMED_KEYS[key]}."
    if key in _SECTION_OF_KEY:
        return f"key {key!r} belongs in [{_SECTION_OF_KEY[key]}]; move it there."
    return f"{where}has an unknown key {key!r}; {did_you_mean(key, names)}".strip()


def _resolve_paths(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make paths of models absolute: they are relative to the file that names them."""
    keys = [key for key in ("detector", "encoder", "prototypes") if key in values]
    beside = {key: folder / str(values[key]) for key in keys}
    return values | {key: str(path) for key, path in beside.items() if path.exists()}


def _line(key: str, value: object) -> str:
    # JSON's strings, numbers, booleans and lists are valid TOML.
    return f"{key} = {json.dumps(value, ensure_ascii=False)}"


def _types(annotation: Any) -> tuple[Any, ...]:  # noqa: ANN401  an annotation may be anything
    """The type of a field and, if it is a tuple, the type of its elements; a table is a dict.

    >>> _types(int | None), _types(tuple[float, ...])
    ((<class 'int'>,), (<class 'tuple'>, <class 'float'>))
    """
    if get_origin(annotation) is tuple:
        return tuple, get_args(annotation)[0]
    if get_origin(annotation) is dict:
        return (dict,)
    return (get_args(annotation) or (annotation,))[:1]


def _is_a(value: object, expected: type) -> bool:
    """`isinstance`, except that an int is a valid float, and a bool is neither."""
    if isinstance(value, bool):
        return expected is bool
    return isinstance(value, (int, float) if expected is float else expected)


def available_presets() -> tuple[str, ...]:
    """Names of the presets that ship with the package.

    >>> "starter" in available_presets()
    True
    """
    return tuple(sorted(path.stem for path in package_data("configs").glob("*.toml")))


def preset_path(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of a bundled preset, or of your own.

    Raises:
        ConfigError: there is no such preset.

    >>> preset_path("starter").name
    'starter.toml'
    """
    text = os.fspath(name_or_path)
    if text.endswith(".toml"):
        return Path(text)
    if text in available_presets():
        return package_data("configs") / f"{text}.toml"
    if Path(text).suffix:
        raise ConfigError(
            f"{text} is not a preset; give a .toml file with detector = {text!r} under [models]."
        )
    raise ConfigError(f"Unknown preset {text!r}; {did_you_mean(text, available_presets())}")


def load_preset(name_or_path: "str | os.PathLike[str] | Preset") -> Preset:
    """Load a bundled preset by name, or your own by the path of its `.toml` file.

    Raises:
        ConfigError: there is no such preset, or it cannot be read.

    >>> load_preset("starter").name
    'starter'
    """
    if isinstance(name_or_path, Preset):
        return name_or_path
    if not isinstance(name_or_path, str | os.PathLike):
        raise ConfigError(
            f"preset is a {type(name_or_path).__name__}; pass a name, a path or a Preset."
        )
    return Preset.from_file(preset_path(name_or_path))
