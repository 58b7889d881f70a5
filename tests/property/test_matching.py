"""What must hold for every score."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from openvocab import matching

LOGITS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.floats(-100, 100, width=32),
)
UNIT = st.floats(0, 1, width=32)


@given(LOGITS)
def test_every_row_sums_to_one(logits):
    rows = matching.posterior(logits)
    np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=1e-5)
    assert (rows >= 0).all()


@given(LOGITS, st.randoms(use_true_random=False))
def test_permuting_columns_permutes_the_posterior(logits, random):
    order = list(range(logits.shape[1]))
    random.shuffle(order)
    np.testing.assert_allclose(
        matching.posterior(logits[:, order]), matching.posterior(logits)[:, order], atol=1e-6
    )


@given(LOGITS)
def test_a_larger_logit_never_lowers_its_own_posterior(logits):
    raised = logits.copy()
    raised[:, 0] += 1
    assert (matching.posterior(raised)[:, 0] >= matching.posterior(logits)[:, 0] - 1e-6).all()


@given(UNIT, UNIT, UNIT, st.floats(0, 1))
def test_fusion_is_monotone_and_stays_between_its_parts(objectness, low, high, exponent):
    low, high = sorted((low, high))
    fused = [
        float(matching.fuse(np.float32([objectness]), np.float32([value]), exponent)[0])
        for value in (low, high)
    ]
    assert fused[0] <= fused[1] + 1e-6
    assert min(objectness, low) - 1e-6 <= fused[0] <= max(objectness, low) + 1e-6


@given(LOGITS)
def test_evidence_stays_between_minus_one_and_one(logits):
    affinity = matching.posterior(np.hstack([logits, logits[:, :1]]))
    found = matching.label_evidence(affinity, np.arange(logits.shape[1]))
    assert (np.abs(found) <= 1 + 1e-5).all()
