"""Tracks are encoded when they are due, keep their label, and are forgotten."""

import numpy as np
import pytest

from openvocab.errors import ConfigError
from openvocab.stream._memory import TrackingSettings, TrackMemory
from openvocab.types import Proposals

IMAGE = np.random.default_rng(0).integers(0, 255, (200, 400, 3), np.uint8)
CAT, DOG = np.eye(2, dtype=np.float32)


def proposals(count: int, size: float = 20) -> Proposals:
    left = 25 * np.arange(count, dtype=np.float32) % 370
    top = 25 * (np.arange(count, dtype=np.float32) // 14) % 170
    boxes = np.stack([left, top, left + size, top + size], 1)
    return Proposals(boxes, np.full(count, 0.8, np.float32), np.zeros(count, np.intp))


def step(memory, boxes, time_s, features=CAT, image=IMAGE):
    """One frame; returns the number of encoded regions."""
    ids = np.arange(len(boxes))
    rows = memory.due(image, boxes, ids, time_s)
    if len(rows):
        memory.update(boxes.xyxy[rows], ids[rows], np.tile(features, (len(rows), 1)), time_s)
    return len(rows)


def logits(*probabilities):
    """Rank logits `(1, K)` with these probabilities."""
    row = np.float32([probabilities])
    return np.log(row / (1 - row))


def test_a_new_track_is_encoded_a_few_times_and_then_at_growing_intervals():
    memory = TrackMemory(TrackingSettings(refresh_s=2, warmup=2))
    encoded = [frame / 10 for frame in range(600) if step(memory, proposals(1), frame / 10)]
    pauses = np.diff(encoded)
    assert encoded[0] == 0 and pauses[0] < 0.6
    assert (np.abs(pauses[1:] / [2, 4, *[8] * (len(pauses) - 3)] - 1) < 0.6).all()
    assert encoded[-1] > 45


def test_a_track_that_is_merely_due_waits_for_others():
    memory = TrackMemory(TrackingSettings(refresh_s=2, warmup=1))
    ids = np.array([0])
    for frame in range(21):
        rows = memory.due(IMAGE, proposals(1), ids, frame / 10)
        memory.update(proposals(1).xyxy[rows], ids[rows], np.tile(CAT, (len(rows), 1)), frame / 10)
    assert list(memory.due(IMAGE, proposals(1), ids, 2.2)) == []  # due for two frames, alone
    assert sorted(memory.due(IMAGE, proposals(2), np.array([0, 1]), 2.3)) == [0, 1]


def test_a_track_is_encoded_again_when_it_has_grown_or_looks_different():
    memory = TrackMemory(TrackingSettings(refresh_s=100, warmup=1, change=0.18))
    assert step(memory, proposals(1), 0) == 1
    assert step(memory, proposals(1), 0.1) == 0
    assert step(memory, proposals(1, size=36), 0.2) == 1
    assert step(memory, proposals(1, size=20), 0.25) == 0  # a smaller view is not better
    assert step(memory, proposals(1, size=36), 0.3, image=IMAGE // 2 + 60) == 0  # only the light
    stripes = np.zeros_like(IMAGE)
    stripes[:, np.arange(400) % 16 < 8] = 255
    assert step(memory, proposals(1, size=36), 0.4, image=stripes) == 1


def test_a_crowd_is_encoded_within_the_budget_and_all_of_it_in_the_end():
    memory = TrackMemory(TrackingSettings(budget=16, warmup=1, refresh_s=1000))
    encoded = [step(memory, proposals(80), frame / 10) for frame in range(6)]
    assert encoded == [16] * 5 + [0]


def test_the_average_is_of_unit_length_and_follows_slowly():
    memory = TrackMemory(TrackingSettings(momentum=0.8, warmup=1, refresh_s=0))
    for frame in range(20):
        step(memory, proposals(1), frame / 10, CAT)
    step(memory, proposals(1), 2.1, DOG)
    encoded, rows = memory.features(np.array([0, 7]))
    assert encoded.tolist() == [True, False]
    assert np.linalg.norm(rows[0]) == pytest.approx(1, abs=1e-6)
    assert rows[0] @ CAT > 0.9 > rows[0] @ DOG


def test_a_label_changes_only_for_a_lead_that_lasts():
    memory = TrackMemory(TrackingSettings(warmup=1, refresh_s=0, hysteresis=0.15, patience=3))
    one = np.array([0])
    cat, unsure, dog = logits(0.8, 0.2), logits(0.45, 0.55), logits(0.1, 0.9)
    labels = []
    for frame, rank in enumerate([cat, unsure, unsure, unsure, dog, cat, dog, dog, dog, dog]):
        step(memory, proposals(1), frame / 2)
        labels.append(int(memory.labels(one, rank)[0]))
    assert labels == [0, 0, 0, 0, 0, 0, 0, 0, 1, 1]


def test_saturated_probabilities_leave_the_choice_to_the_logits():
    memory = TrackMemory()
    step(memory, proposals(1), 0)
    assert memory.labels(np.array([0]), np.array([[90.0, 120.0, -120.0]])) == 1


def test_other_classes_are_chosen_without_another_encoding():
    memory = TrackMemory(TrackingSettings(warmup=1))
    step(memory, proposals(1), 0)
    one = np.array([0])
    assert memory.labels(one, logits(0.9, 0.1)) == 0
    memory.relabel()
    assert step(memory, proposals(1), 0.1) == 0
    assert memory.labels(one, logits(0.2, 0.1, 0.9)) == 2


def test_tracks_are_forgotten_after_a_while_and_when_there_are_too_many():
    memory = TrackMemory(TrackingSettings(forget_s=1, max_tracks=50))
    for frame in range(400):  # 20 new tracks a frame
        memory.due(IMAGE, proposals(20), np.arange(20) + 20 * frame, frame / 10)
    assert len(memory) <= 50 + 20
    memory.due(IMAGE, proposals(0), np.empty(0, int), 1000.0)
    assert len(memory) == 0


def test_a_clock_that_goes_back_starts_over():
    """A video that begins again, a camera whose clock was set."""
    memory = TrackMemory()
    step(memory, proposals(3), 1e9)
    step(memory, proposals(3), 5.0)
    assert len(memory) == 3


def test_a_box_outside_the_image_does_no_harm():
    memory = TrackMemory()
    outside = Proposals(
        np.array([[-50, -50, -10, -10], [390, 190, 900, 900]], np.float32),
        np.ones(2, np.float32),
        np.array([0, 1]),
    )
    assert step(memory, outside, 0) == 2


@pytest.mark.parametrize(
    "bad", [{"budget": 0}, {"momentum": 1.0}, {"growth": 0.5}, {"patience": 0}]
)
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        TrackingSettings(**bad)
