"""What must hold for every score."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from openvocab.scoring import log_odds

# Scales of real encoders, and the largest that a preset may have.
LOGIT = st.floats(-100, 100, width=32) | st.floats(-(2**20), 2**20, width=32)
LOGITS = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=LOGIT
)
UNIT = st.floats(0, 1, width=32)


@st.composite
def scenes(draw):
    """Logits of classes and of competitors, and which competitors count for which class."""
    boxes, classes, others = (draw(st.integers(1, 8)) for _ in range(3))
    logits = draw(hnp.arrays(np.float32, (boxes, classes), elements=LOGIT))
    rivals = draw(hnp.arrays(np.float32, (boxes, others), elements=LOGIT))
    return logits, rivals, draw(hnp.arrays(np.bool_, (classes, others)))


@given(LOGITS)
def test_every_row_of_a_softmax_sums_to_one(logits):
    rows = log_odds.softmax(logits)
    np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=1e-5)
    assert (rows >= 0).all()


@given(scenes())
def test_a_class_and_its_competitors_share_a_probability_of_one(scene):
    logits, others, competes = scene
    found = log_odds.posterior(logits, others, competes)
    for index in range(logits.shape[1]):
        mine = np.hstack([logits[:, index : index + 1], others[:, competes[index]]])
        shares = log_odds.softmax(mine.astype(np.float64))
        np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)
        np.testing.assert_allclose(found[:, index], shares[:, 0], atol=1e-6)


@given(scenes(), st.randoms(use_true_random=False))
def test_permuting_classes_permutes_the_posterior(scene, random):
    logits, others, competes = scene
    order = list(range(logits.shape[1]))
    random.shuffle(order)
    np.testing.assert_allclose(
        log_odds.posterior(logits[:, order], others, competes[order]),
        log_odds.posterior(logits, others, competes)[:, order],
        atol=1e-6,
    )


@given(scenes())
def test_another_class_changes_no_other_posterior(scene):
    logits, others, competes = scene
    np.testing.assert_allclose(
        log_odds.posterior(logits[:, :-1], others, competes[:-1]),
        log_odds.posterior(logits, others, competes)[:, :-1],
        atol=1e-6,
    )


@given(scenes())
def test_a_larger_logit_never_lowers_its_own_posterior(scene):
    logits, others, competes = scene
    raised = logits + np.float32(1)
    before = log_odds.posterior(logits, others, competes)
    assert (log_odds.posterior(raised, others, competes) >= before - 1e-6).all()


@given(UNIT, UNIT, UNIT, st.floats(0, 1))
def test_fusion_is_monotone_and_stays_between_its_parts(objectness, low, high, exponent):
    low, high = sorted((low, high))
    fused = [
        float(log_odds.fuse(np.float32([objectness]), np.float32([value]), exponent)[0])
        for value in (low, high)
    ]
    assert fused[0] <= fused[1] + 1e-6
    assert min(objectness, low) - 1e-6 <= fused[0] <= max(objectness, low) + 1e-6


@given(LOGITS)
def test_evidence_stays_between_minus_one_and_one(logits):
    affinity = log_odds.softmax(np.hstack([logits, logits[:, :1]]))
    covered = affinity[:, :-1] > 0.5
    found = log_odds.label_evidence(affinity, covered, np.arange(logits.shape[1]))
    assert (np.abs(found) <= 1 + 1e-5).all()


@settings(deadline=None)
@given(st.integers(0, 70), st.integers(0, 70), st.sampled_from([1, 384, 10_000]), st.booleans())
def test_products_in_pieces_are_the_product(rows, columns, width, double):
    chance = np.random.default_rng(0)
    kind = np.float64 if double else np.float32
    left, right = (chance.normal(size=(count, width)).astype(kind) for count in (rows, columns))
    found = log_odds.matmul_nt(left, right)
    assert found.dtype == kind
    np.testing.assert_allclose(found, left @ right.T, atol=1e-3)
