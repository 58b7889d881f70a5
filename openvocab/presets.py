"""Presets: a frozen set of weights and calibrated numbers, read from a TOML file."""

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self, get_args, get_origin

from openvocab.errors import ConfigError, near
from openvocab.files import bundled, read_table
from openvocab.prompts import TEMPLATES

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
    """Which networks, and the numbers that belong to them.

    Source of the fusion: F-VLM (Kuo et al., ICLR 2023). The figures that chose the numbers stand
    in the TOML file beside them.

    Raises:
        ConfigError: a value is out of its range.

    >>> Preset(name="mine", detector="yolo.onnx", encoder="bundle").score_threshold
    0.3
    """

    name: str
    """What it is called in tables and reports."""
    detector: str
    """Weights name (`openvocab weights list`) or the path of a file that Ultralytics loads."""
    encoder: str
    """Weights name, the path of an open_clip bundle, or `MODEL:TAG` of open_clip's cache."""
    description: str = ""
    """One line for people who choose among presets."""
    templates: str = "simple"
    """`none`, `simple` or `openai`."""
    context_scales: tuple[float, ...] = (1.0, 1.5)
    """Each box is seen at these sizes, relative to it, and the features averaged."""
    image_size: int | None = None
    """Longer side that the detector sees, in pixels; None takes what it was made for."""
    tile_size: int | None = None
    """Side of the tiles that the detector sees beside the whole image, in pixels; None sees none."""
    proposal_threshold: float = 0.001
    """Boxes under this objectness are not looked at; those that cannot reach the lowest score asked
    for are not encoded in any case."""
    proposal_iou: float = 0.7
    """Overlap, intersection over union, above which the detector's weaker box of a label goes."""
    max_boxes: int = 300
    """Boxes an image, the best first."""
    max_regions: int | None = None
    """Boxes an image that are encoded at the most, the best first; None sets no limit."""
    logit_scale: float | None = None
    """Factor on the cosine; None takes the encoder's own."""
    background: tuple[str, ...] = ("background", "texture", "wall", "floor", "sky", "grass")
    """Prompts that always compete and are never returned."""
    background_weight: float = 1.0
    """Prior weight of each competing row against a class of the caller."""
    prior_weight: float = 5.0
    """Logits that a fully confident label of the detector gives or takes."""
    prior_scale: float = 20.0
    """Factor on the nearness of a word and the detector's names when they are compared."""
    prior_floor: float = 0.5
    """Nearness, 0 unrelated to 1 the same, under which no name of the detector stands for a word."""
    fusion_exponent: float = 0.4
    """Weight of the posterior against objectness, from 0 to 1."""
    score_threshold: float = 0.3
    """Boxes with a lower fused score are not returned."""
    nms_iou: float = 0.6
    """Overlap above which the box of lower score of the same class goes; of another, above .85."""
    trust_pickle: bool = False
    """Load `.pt` detectors, which can run code; only for files whose origin you trust."""

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
            ConfigError: not TOML, an unknown or missing key, a value of the wrong type or range.
        """
        path = Path(path).absolute()
        if not path.is_file():
            raise ConfigError(f"There is no preset {path}; check the path.")
        raw = read_table(path)
        known = [field.name for field in fields(cls)]
        for key in raw:
            if key not in known:
                raise ConfigError(f"{path}: unknown key {key!r}; {near(key, known)}")
        values = dict(raw)
        for key in ("detector", "encoder"):
            beside = path.parent / str(values.get(key, ""))
            if key in values and beside.exists():  # a path is relative to the file it stands in
                values[key] = str(beside)
        missing = [key for key in ("detector", "encoder") if key not in values]
        if missing:
            raise ConfigError(f"{path}: key {missing[0]!r} is missing; add it.")
        try:
            return cls(**({"name": path.stem} | values))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    def to_toml(self) -> str:
        """The fields that are not the defaults, as `from_file` reads them.

        >>> mine = Preset(name="mine", detector="yolo.onnx", encoder="bundle", nms_iou=0.5)
        >>> mine.to_toml().splitlines()
        ['name = "mine"', 'detector = "yolo.onnx"', 'encoder = "bundle"', 'nms_iou = 0.5']
        """
        lines = [
            # What JSON says of strings, numbers, booleans and lists, TOML says, too.
            f"{each.name} = {json.dumps(value, ensure_ascii=False)}\n"
            for each in fields(self)
            if (value := getattr(self, each.name)) != each.default
        ]
        return "".join(lines)


def _kinds(annotation: Any) -> tuple[Any, ...]:  # noqa: ANN401  whatever stands beside a field
    """The type of a field, and that of its parts where it is a tuple.

    >>> _kinds(int | None), _kinds(tuple[float, ...])
    ((<class 'int'>,), (<class 'tuple'>, <class 'float'>))
    """
    if get_origin(annotation) is tuple:
        return tuple, get_args(annotation)[0]
    return (get_args(annotation) or (annotation,))[:1]


def _is_of(value: object, kind: type) -> bool:
    """Python's, but that a whole number is a number, too, and neither is true or false."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def available() -> tuple[str, ...]:
    """Names of the presets that ship with the package.

    >>> "starter" in available()
    True
    """
    return tuple(sorted(path.stem for path in bundled("configs").glob("*.toml")))


def path_of(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of a bundled preset, or of one's own.

    Raises:
        ConfigError: there is no such preset.

    >>> path_of("starter").name
    'starter.toml'
    """
    text = os.fspath(name_or_path)
    if text.endswith(".toml"):
        return Path(text)
    if text in available():
        return bundled("configs") / f"{text}.toml"
    if Path(text).suffix:
        raise ConfigError(f"{text} is no preset; give a .toml with detector = {text!r} in it.")
    raise ConfigError(f"Unknown preset {text!r}; {near(text, available())}")


def load(name_or_path: "str | os.PathLike[str] | Preset") -> Preset:
    """A bundled preset by name, or one's own by the path of its `.toml` file.

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
