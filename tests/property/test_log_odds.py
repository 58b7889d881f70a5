"""What holds for every score."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from openvocab._internal.threads import matmul_nt
from openvocab.scoring import _log_odds as log_odds

# Logits of real encoders, and the largest that a preset allows: scale 200, prior weight 50.
LOGIT = st.floats(-30, 30, width=32) | st.floats(-257, 257, width=32)
LOGITS = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=LOGIT
)
UNIT = st.floats(0, 1, width=32)


@st.composite
def scenes(draw):
    """Logits of classes and of competitors, and which competitors count for which class."""
    boxes, classes, competitors = (draw(st.integers(1, 8)) for _ in range(3))
    logits = draw(hnp.arrays(np.float32, (boxes, classes), elements=LOGIT))
    rivals = draw(hnp.arrays(np.float32, (boxes, competitors), elements=LOGIT))
    return logits, rivals, draw(hnp.arrays(np.bool_, (classes, competitors)))


def posterior(logits, rivals, competes):
    return log_odds.sigmoid(log_odds.class_log_odds(logits, rivals, competes))


@given(LOGITS)
def test_every_row_of_a_softmax_sums_to_one(logits):
    rows = log_odds.softmax(logits)
    np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=1e-5)
    assert (rows >= 0).all()


@given(scenes())
def test_the_posterior_is_the_softmax_of_a_class_and_its_competitors(scene):
    logits, rivals, competes = scene
    result = posterior(logits, rivals, competes)
    for index in range(logits.shape[1]):
        column = np.hstack([logits[:, index : index + 1], rivals[:, competes[index]]])
        shares = log_odds.softmax(column.astype(np.float64))
        np.testing.assert_allclose(result[:, index], shares[:, 0], atol=1e-6)


@given(scenes(), st.randoms(use_true_random=False))
def test_permuting_classes_permutes_the_posterior(scene, random):
    logits, rivals, competes = scene
    order = list(range(logits.shape[1]))
    random.shuffle(order)
    np.testing.assert_allclose(
        posterior(logits[:, order], rivals, competes[order]),
        posterior(logits, rivals, competes)[:, order],
        atol=1e-6,
    )


@given(scenes())
def test_another_class_changes_no_other_posterior(scene):
    logits, rivals, competes = scene
    np.testing.assert_allclose(
        posterior(logits[:, :-1], rivals, competes[:-1]),
        posterior(logits, rivals, competes)[:, :-1],
        atol=1e-6,
    )


@given(scenes())
def test_a_larger_logit_never_lowers_its_own_posterior(scene):
    logits, rivals, competes = scene
    before = posterior(logits, rivals, competes)
    assert (posterior(logits + np.float32(1), rivals, competes) >= before - 1e-6).all()


@given(UNIT, UNIT, UNIT, st.floats(0, 1))
def test_fusion_is_monotone_and_stays_between_its_parts(objectness, low, high, exponent):
    low, high = sorted((low, high))
    fused = [
        float(log_odds.fuse(np.float32([objectness]), np.float32([value]), exponent)[0])
        for value in (low, high)
    ]
    assert fused[0] <= fused[1] + 1e-6
    assert min(objectness, low) - 1e-6 <= fused[0] <= max(objectness, low) + 1e-6


@given(UNIT, UNIT, UNIT, st.floats(0, 0.99))
def test_no_box_below_the_lowest_objectness_reaches_the_score(objectness, value, score, exponent):
    fused = float(log_odds.fuse(np.float32([objectness]), np.float32([value]), exponent)[0])
    if objectness < log_odds.min_objectness(score, exponent):
        assert fused < score + 1e-6


@settings(deadline=None)
@given(st.integers(0, 70), st.integers(0, 70), st.sampled_from([1, 384, 10_000]), st.booleans())
def test_the_product_in_blocks_is_the_product(rows, columns, width, double):
    random = np.random.default_rng(0)
    dtype = np.float64 if double else np.float32
    left, right = (random.normal(size=(count, width)).astype(dtype) for count in (rows, columns))
    product = matmul_nt(left, right)
    assert product.dtype == dtype
    np.testing.assert_allclose(product, left @ right.T, atol=1e-3)
