"""Tracks are encoded when it is due, keep their label, and are forgotten."""

import numpy as np
import pytest

from openvocab.errors import ConfigError
from openvocab.stream.memory import MemorySettings, TrackMemory
from openvocab.types import Proposals

IMAGE = np.random.default_rng(0).integers(0, 255, (200, 400, 3), np.uint8)
CAT, DOG = np.eye(2, dtype=np.float32)


def proposals(count: int, size: float = 20) -> Proposals:
    left = 25 * np.arange(count, dtype=np.float32) % 370
    top = 25 * (np.arange(count, dtype=np.float32) // 14) % 170
    boxes = np.stack([left, top, left + size, top + size], 1)
    return Proposals(boxes, np.full(count, 0.8, np.float32), ("thing",) * count)


def step(memory, found, time_s, features=CAT, image=IMAGE):
    """One frame: what was encoded."""
    ids = np.arange(len(found))
    rows = memory.due(image, found, ids, time_s)
    if len(rows):
        memory.update(found.xyxy[rows], ids[rows], np.tile(features, (len(rows), 1)), time_s)
    return len(rows)


def test_a_new_track_is_looked_at_a_few_times_and_then_now_and_then():
    memory = TrackMemory(MemorySettings(refresh_s=2, settle=2))
    encoded = [frame / 10 for frame in range(600) if step(memory, proposals(1), frame / 10)]
    pauses = np.diff(encoded)
    assert encoded[0] == 0 and pauses[0] < 0.6
    assert (np.abs(pauses[1:] / [2, 4, *[8] * (len(pauses) - 3)] - 1) < 0.6).all()
    assert encoded[-1] > 45


def test_what_is_only_due_waits_for_company():
    memory = TrackMemory(MemorySettings(refresh_s=2, settle=1))
    ids = np.array([0])
    for frame in range(21):
        rows = memory.due(IMAGE, proposals(1), ids, frame / 10)
        memory.update(proposals(1).xyxy[rows], ids[rows], np.tile(CAT, (len(rows), 1)), frame / 10)
    assert list(memory.due(IMAGE, proposals(1), ids, 2.2)) == []  # due for two frames, alone
    assert sorted(memory.due(IMAGE, proposals(2), np.array([0, 1]), 2.3)) == [0, 1]


def test_it_is_encoded_again_when_it_has_grown_or_looks_otherwise():
    memory = TrackMemory(MemorySettings(refresh_s=100, settle=1, changed=0.18))
    assert step(memory, proposals(1), 0) == 1
    assert step(memory, proposals(1), 0.1) == 0
    assert step(memory, proposals(1, size=36), 0.2) == 1
    assert step(memory, proposals(1, size=20), 0.25) == 0  # smaller is no better a look
    assert step(memory, proposals(1, size=36), 0.3, image=IMAGE // 2 + 60) == 0  # only the light
    stripes = np.zeros_like(IMAGE)
    stripes[:, np.arange(400) % 16 < 8] = 255
    assert step(memory, proposals(1, size=36), 0.4, image=stripes) == 1


def test_a_crowd_is_encoded_within_the_budget_and_all_of_it_in_the_end():
    memory = TrackMemory(MemorySettings(budget=16, settle=1, refresh_s=1000))
    encoded = [step(memory, proposals(80), frame / 10) for frame in range(6)]
    assert encoded == [16] * 5 + [0]


def test_the_average_is_of_unit_length_and_follows_slowly():
    memory = TrackMemory(MemorySettings(momentum=0.8, settle=1, refresh_s=0))
    for frame in range(20):
        step(memory, proposals(1), frame / 10, CAT)
    step(memory, proposals(1), 2.1, DOG)
    known, rows = memory.features(np.array([0, 7]))
    assert known.tolist() == [True, False]
    assert np.linalg.norm(rows[0]) == pytest.approx(1, abs=1e-6)
    assert rows[0] @ CAT > 0.9 > rows[0] @ DOG


def test_a_label_changes_only_for_a_lead_that_lasts():
    memory = TrackMemory(MemorySettings(settle=1, refresh_s=0, hysteresis=0.15, patience=3))
    one = np.array([0])
    cat, unsure, dog = (
        np.array([row], np.float32) for row in ([0.8, 0.2], [0.45, 0.55], [0.1, 0.9])
    )
    said = []
    for frame, posterior in enumerate([cat, unsure, unsure, unsure, dog, cat, dog, dog, dog, dog]):
        step(memory, proposals(1), frame / 2)
        said.append(int(memory.labels(one, posterior)[0]))
    assert said == [0, 0, 0, 0, 0, 0, 0, 0, 1, 1]


def test_other_classes_are_judged_anew_without_another_look():
    memory = TrackMemory(MemorySettings(settle=1))
    step(memory, proposals(1), 0)
    one = np.array([0])
    assert memory.labels(one, np.array([[0.9, 0.1]], np.float32)) == 0
    memory.relabel()
    assert step(memory, proposals(1), 0.1) == 0
    assert memory.labels(one, np.array([[0.2, 0.1, 0.9]], np.float32)) == 2


def test_what_is_gone_is_forgotten_and_there_is_a_most():
    memory = TrackMemory(MemorySettings(forget_s=1, max_tracks=50))
    for frame in range(400):  # 20 new tracks a frame
        found, ids = proposals(20), np.arange(20) + 20 * frame
        memory.due(IMAGE, found, ids, frame / 10)
    assert len(memory) <= 50 + 20
    memory.due(IMAGE, proposals(0), np.empty(0, int), 1000.0)
    assert len(memory) == 0


def test_a_clock_that_goes_back_starts_over():
    """A film that begins again, a camera whose clock was set."""
    memory = TrackMemory()
    step(memory, proposals(3), 1e9)
    step(memory, proposals(3), 5.0)
    assert len(memory) == 3


def test_a_box_outside_the_picture_does_no_harm():
    memory = TrackMemory()
    found = Proposals(
        np.array([[-50, -50, -10, -10], [390, 190, 900, 900]], np.float32),
        np.ones(2, np.float32),
        ("a", "b"),
    )
    assert step(memory, found, 0) == 2


@pytest.mark.parametrize(
    "bad", [{"budget": 0}, {"momentum": 1.0}, {"expand_boxes": 0.5}, {"patience": 0}]
)
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        MemorySettings(**bad)
