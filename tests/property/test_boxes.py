"""A crop is never empty and always inside its image, whatever the box."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from openvocab.encoders._boxes import clip_to_pixels, expand_boxes

SIDE = st.integers(1, 4000)
BOXES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 8), st.just(4)),
    elements=st.floats(-5000, 5000, width=32),
)
SCALE = st.floats(1, 3)


@given(BOXES, SCALE, SIDE, SIDE, st.booleans())
def test_never_empty_always_inside(boxes, scale, width, height, square):
    pixels = clip_to_pixels(expand_boxes(boxes, scale), (width, height), square=square)
    assert pixels.shape == boxes.shape
    assert (pixels[:, 2:] > pixels[:, :2]).all()
    assert (pixels[:, :2] >= 0).all()
    assert (pixels[:, 2:] <= (width, height)).all()


@given(st.integers(8, 500), st.integers(8, 500), SCALE, st.booleans())
def test_a_box_inside_the_image_is_inside_its_crop(width, height, scale, square):
    box = np.array([[2.5, 1.5, width - 3.25, height - 2.75]], np.float32)
    ((x1, y1, x2, y2),) = clip_to_pixels(expand_boxes(box, scale), (width, height), square=square)
    assert x1 <= 2.5 and y1 <= 1.5
    assert x2 >= width - 3.25 and y2 >= height - 2.75


@given(st.integers(1, 5), SCALE)
def test_scaling_image_and_box_together_scales_the_crop(factor, scale):
    box = np.array([[20, 30, 60, 50]], np.float32)
    once = clip_to_pixels(expand_boxes(box, scale), (100, 90))
    larger = clip_to_pixels(expand_boxes(box * factor, scale), (100 * factor, 90 * factor))
    assert np.abs(larger - once * factor).max() <= factor
