"""Presets: two networks and the numbers calibrated for them, read from a TOML file."""

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self, get_args, get_origin

from openvocab._internal.files import package_data, read_table
from openvocab.errors import ConfigError, did_you_mean
from openvocab.vocabulary.prompts import TEMPLATES

__all__ = ["Preset", "available", "load", "path_of"]


RANGES: dict[str, tuple[float, float]] = {
    "proposal_threshold": (0, 1),
    "proposal_iou": (0, 1),
    "nms_iou": (0, 1),
    "prior_floor": (0, 1),
    "fusion_exponent": (0, 1),
    "score_threshold": (0, 1),
    "prior_weight": (0, 100),
    "prior_scale": (1e-6, 1e6),
    "logit_scale": (1e-6, 1e6),
    "background_weight": (1e-6, 1e6),
    "max_boxes": (1, 10_000),
    "max_regions": (1, 10_000),
    "image_size": (32, 8192),
    "tile_size": (64, 8192),
}
KINDS: dict[Any, str] = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    tuple: "a list",
}


@dataclass(frozen=True, slots=True)
class Preset:
    """Two networks, and the numbers that belong to them.

    Source of the fusion: F-VLM (Kuo et al., ICLR 2023). The measurements behind the numbers are
    given beside them in the TOML file.

    Raises:
        ConfigError: a value is out of range.

    >>> Preset(name="mine", detector="yolo.onnx", encoder="bundle").score_threshold
    0.3
    """

    name: str
    """Its name in tables and reports."""
    detector: str
    """Name of weights (`openvocab weights list`), or path of a file that Ultralytics can load."""
    encoder: str
    """Name of weights, path of an open_clip bundle, or `MODEL:TAG` from open_clip's cache."""
    description: str = ""
    """One line that helps to choose among presets."""
    templates: str = "simple"
    """`none`, `simple` or `openai`."""
    context_scales: tuple[float, ...] = (1.0, 1.5)
    """Sizes, relative to the box, at which a region is cut out; the features are averaged."""
    image_size: int | None = None
    """Longer side that the detector sees, in pixels; None uses the size it was made for."""
    tile_size: int | None = None
    """Side, in pixels, of tiles that the detector sees beside the whole image; None for none."""
    proposal_threshold: float = 0.001
    """Objectness below which boxes are ignored. Boxes that cannot reach the lowest threshold of a
    call are never encoded, whatever this is."""
    proposal_iou: float = 0.7
    """Intersection over union above which the weaker of two boxes of the same label is dropped."""
    max_boxes: int = 300
    """Boxes per image; the best are kept."""
    max_regions: int | None = None
    """Boxes per image that are encoded; the best are kept. None sets no limit."""
    logit_scale: float | None = None
    """Factor on the cosine; None uses the encoder's own."""
    background: tuple[str, ...] = ("background", "texture", "wall", "floor", "sky", "grass")
    """Prompts that always compete and are never returned."""
    background_weight: float = 1.0
    """Prior weight of a background prompt or detector name, relative to a class of the caller."""
    prior_weight: float = 5.0
    """Logits that a fully confident label of the detector adds or takes away."""
    prior_scale: float = 20.0
    """Factor on the nearness of a word to the detector's names when they are compared."""
    prior_floor: float = 0.5
    """Nearness, 0 (unrelated) to 1 (the same), below which no detector name stands for a word."""
    fusion_exponent: float = 0.4
    """Weight of the posterior relative to objectness, from 0 to 1."""
    score_threshold: float = 0.3
    """Boxes with a lower fused score are not returned."""
    nms_iou: float = 0.6
    """Overlap above which the lower-scored of two boxes of one class is dropped; of two classes,
    the limit is 0.85, or this if it is larger."""
    trust_pickle: bool = False
    """Allow `.pt` detectors, which can run any code when loaded; only for files that you trust."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is None and each.default is None:
                continue
            if isinstance(value, list | os.PathLike):
                value = tuple(value) if isinstance(value, list) else os.fspath(value)
                object.__setattr__(self, each.name, value)
            kind, *parts = _kinds(each.type)
            inside = value if parts and isinstance(value, tuple) else ()
            if not _is_of(value, kind) or not all(_is_of(part, *parts) for part in inside):
                raise ConfigError(f"{self.name}: {each.name} is {value!r}; give {KINDS[kind]}.")
            low, high = RANGES.get(each.name, (None, None))
            if low is not None and not low <= value <= high:
                raise ConfigError(f"{self.name}: {each.name} is {value}; use {low} to {high}.")
        if self.templates not in TEMPLATES:
            raise ConfigError(
                f"{self.name}: templates is {self.templates!r}; use one of {', '.join(TEMPLATES)}."
            )
        if not self.context_scales or not all(1 <= scale <= 8 for scale in self.context_scales):
            raise ConfigError(f"{self.name}: context_scales must be 1.0 to 8.0, and not none.")

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Read a TOML file whose keys are the fields above; `name` defaults to the file's stem.

        Raises:
            ConfigError: the file is not TOML, has an unknown key or lacks one, or a value is of
                the wrong type or out of range.
        """
        path = Path(path).absolute()
        if not path.is_file():
            raise ConfigError(f"There is no preset {path}; check the path.")
        raw = read_table(path)
        known = [field.name for field in fields(cls)]
        for key in raw:
            if key not in known:
                raise ConfigError(f"{path}: unknown key {key!r}; {did_you_mean(key, known)}")
        values = dict(raw)
        for key in ("detector", "encoder"):
            beside = path.parent / str(values.get(key, ""))
            if key in values and beside.exists():  # a path is relative to the file it is in
                values[key] = str(beside)
        missing = [key for key in ("detector", "encoder") if key not in values]
        if missing:
            raise ConfigError(f"{path}: key {missing[0]!r} is missing; add it.")
        try:
            return cls(**({"name": path.stem} | values))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    def to_toml(self) -> str:
        """Write the fields that differ from the defaults as TOML, for `from_file` to read.

        >>> mine = Preset(name="mine", detector="yolo.onnx", encoder="bundle", nms_iou=0.5)
        >>> mine.to_toml().splitlines()
        ['name = "mine"', 'detector = "yolo.onnx"', 'encoder = "bundle"', 'nms_iou = 0.5']
        """
        lines = [
            # JSON's strings, numbers, booleans and lists are valid TOML.
            f"{each.name} = {json.dumps(value, ensure_ascii=False)}\n"
            for each in fields(self)
            if (value := getattr(self, each.name)) != each.default
        ]
        return "".join(lines)


def _kinds(annotation: Any) -> tuple[Any, ...]:  # noqa: ANN401  whatever stands beside a field
    """The type of a field and, if it is a tuple, the type of its parts.

    >>> _kinds(int | None), _kinds(tuple[float, ...])
    ((<class 'int'>,), (<class 'tuple'>, <class 'float'>))
    """
    if get_origin(annotation) is tuple:
        return tuple, get_args(annotation)[0]
    return (get_args(annotation) or (annotation,))[:1]


def _is_of(value: object, kind: type) -> bool:
    """`isinstance`, except that an int is a valid float, and a bool is neither."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def available() -> tuple[str, ...]:
    """Names of the presets that ship with the package.

    >>> "starter" in available()
    True
    """
    return tuple(sorted(path.stem for path in package_data("configs").glob("*.toml")))


def path_of(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the file of a bundled preset, or of your own.

    Raises:
        ConfigError: there is no such preset.

    >>> path_of("starter").name
    'starter.toml'
    """
    text = os.fspath(name_or_path)
    if text.endswith(".toml"):
        return Path(text)
    if text in available():
        return package_data("configs") / f"{text}.toml"
    if Path(text).suffix:
        raise ConfigError(f"{text} is no preset; give a .toml with detector = {text!r} in it.")
    raise ConfigError(f"Unknown preset {text!r}; {did_you_mean(text, available())}")


def load(name_or_path: "str | os.PathLike[str] | Preset") -> Preset:
    """Load a bundled preset by name, or your own by the path of its `.toml` file.

    Raises:
        ConfigError: there is no such preset, or it cannot be read.

    >>> load("starter").name
    'starter'
    """
    if isinstance(name_or_path, Preset):
        return name_or_path
    if not isinstance(name_or_path, str | os.PathLike):
        kind = type(name_or_path).__name__
        raise ConfigError(f"The preset is a {kind}; pass a name, a path or a Preset.")
    return Preset.from_file(path_of(name_or_path))
