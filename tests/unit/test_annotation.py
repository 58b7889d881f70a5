"""Annotated images: what is drawn, in which colour, and what is left unchanged."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import PIL.Image
import pytest
import supervision as sv
from fontTools.ttLib import TTFont
from matplotlib import font_manager

from openvocab import annotate
from openvocab.errors import ConfigError
from openvocab.io._annotation import _colour, _system_font


def detections(*names: str, mask: np.ndarray | None = None, score: float | None = 0.9):
    count = len(names)
    boxes = np.array([[20 + 90 * i, 40, 80 + 90 * i, 120] for i in range(count)], np.float32)
    return sv.Detections(
        xyxy=boxes,
        mask=mask,
        confidence=None if score is None else np.full(count, score, np.float32),
        class_id=np.arange(count),
        data={"class_name": np.array(names, dtype=object)},
    )


@pytest.fixture
def grey() -> np.ndarray:
    return np.full((200, 400, 3), 128, np.uint8)


def test_the_input_is_unchanged_and_without_detections_a_copy_is_returned(grey):
    before = grey.copy()
    drawn = annotate(grey, detections("bus"))
    np.testing.assert_array_equal(grey, before)
    assert (drawn != grey).any()
    empty = annotate(grey, sv.Detections.empty())
    np.testing.assert_array_equal(empty, grey)
    assert empty is not grey


def test_a_class_keeps_its_colour_wherever_it_stands(grey):
    both = annotate(grey, detections("bus", "dog"))
    alone = annotate(grey, detections("bus", "dog")[[1]])
    np.testing.assert_array_equal(both[80, 110], alone[80, 110])


def test_the_first_ten_classes_have_distinct_colours():
    colours = np.array([_colour(number).as_rgb() for number in range(10)], float)
    apart = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
    assert apart[~np.eye(10, dtype=bool)].min() > 20


def test_lines_grow_with_the_image(grey):
    def width(image: np.ndarray) -> int:
        detections = sv.Detections(
            np.array([[100, 50, 300, 150]], np.float32),
            confidence=np.ones(1),
            class_id=np.zeros(1, int),
            data={"class_name": np.array(["bus"], dtype=object)},
        )
        row = annotate(image, detections)[100, 60:140]
        return int((row != 128).any(axis=1).sum())

    large = np.full((2000, 3000, 3), 128, np.uint8)
    assert width(large) > width(grey)


def test_it_takes_the_same_images_as_detect(tmp_path, grey):
    PIL.Image.fromarray(grey).save(tmp_path / "grey.png")
    boxes = detections("bus")
    for image in (tmp_path / "grey.png", PIL.Image.fromarray(grey), grey[:, :, 0], grey / 255):
        assert annotate(image, boxes).shape == grey.shape


def test_without_names_the_class_id_is_drawn(grey):
    unnamed = sv.Detections(np.array([[20, 40, 80, 120]], np.float32), class_id=np.array([3]))
    assert (annotate(grey, unnamed) != grey).any()


def test_masks_are_drawn(grey):
    mask = np.zeros((1, 200, 400), bool)
    mask[0, 60:100, 30:70] = True
    drawn = annotate(grey, detections("bus", mask=mask))
    assert (drawn[80, 50] != 128).any()


@pytest.mark.parametrize("number", range(25))
def test_white_text_can_be_read_on_every_colour(number):
    def linear(part: int) -> float:
        share = part / 255
        return share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4

    colour = _colour(number)
    luminance = sum(
        weight * linear(part)
        for weight, part in zip((0.2126, 0.7152, 0.0722), colour.as_rgb(), strict=True)
    )
    assert 1.05 / (luminance + 0.05) >= 4.4  # WCAG 2 asks for 4.5; gamma is not exactly 2.2


@pytest.mark.parametrize("name", ["a" * 500, "line\nbreak", "Ωmega φ", "地下鉄", "[red]"])
def test_any_name_can_be_drawn(grey, name):
    assert annotate(grey, detections(name)).shape == grey.shape


def font(path, letters, glyphs):
    """DejaVu Sans, of which these letters are left, drawn as those glyphs."""
    file = TTFont(Path(mpl.get_data_path()) / "fonts/ttf/DejaVuSans.ttf")
    for table in file["cmap"].tables:
        table.cmap = {ord(a): b for a, b in zip(letters, glyphs, strict=True) if ord(a) < 2**16}
    file.save(path)
    return str(path)


def test_letters_that_dejavu_lacks_are_drawn_in_a_system_font(grey, tmp_path, monkeypatch):
    digits = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    known = "0123456789."
    whole = font(tmp_path / "a.ttf", known + "犬", [*digits, "period", "H"])
    other = font(tmp_path / "b.ttf", known + "犬", [*digits, "period", "I"])
    without_digits = font(tmp_path / "c.ttf", "犬地", "II")
    (tmp_path / "d.ttf").write_bytes(b"damaged")

    def drawn(name, *fonts):
        _system_font.cache_clear()
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda: list(fonts))
        return annotate(grey, detections(name))

    nothing = drawn("犬")
    try:
        replaced = drawn("犬", str(tmp_path / "d.ttf"), without_digits, whole)
        assert (replaced != nothing).any()
        assert (replaced != drawn("犬", other)).any()
        assert (drawn("犬", without_digits) == nothing).all()  # the score would be boxes
        assert (drawn("dog 犬", whole) == drawn("dog 犬")).all()  # and here "dog"
        assert (drawn("dog", whole) == drawn("dog")).all()
    finally:
        _system_font.cache_clear()


def test_a_missing_score_and_a_tiny_image_are_drawn():
    tiny = np.zeros((4, 6, 3), np.uint8)
    assert annotate(tiny, detections("bus", score=None)).shape == (4, 6, 3)


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf"), 1e4])
def test_a_scale_out_of_range_is_refused(grey, scale):
    with pytest.raises(ConfigError, match="use more than 0, up to 20"):
        annotate(grey, sv.Detections.empty(), scale=scale)
