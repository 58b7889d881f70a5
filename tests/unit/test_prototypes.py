"""Image prototypes from unlabelled photos, on drawn images and fakes."""

from pathlib import Path

import numpy as np
import pytest
from drawn import BLUE, LEFT, PRESET, RED, RIGHT, draw
from fakes import ColourEncoder, FakeProposer

from openvocab import OpenVocabDetector
from openvocab.errors import DatasetError
from openvocab.evaluation._prototypes import make_prototypes
from openvocab.scoring import ImagePrototypes


def make_detector(score: float = 0.9) -> OpenVocabDetector:
    proposer = FakeProposer(LEFT, RIGHT, labels=("plum", "tomato"), score=score)
    return OpenVocabDetector(proposer, ColourEncoder(), PRESET)


@pytest.fixture
def photos(tmp_path) -> list[Path]:
    return [draw(tmp_path, number, BLUE, RED).path for number in range(2)]


def test_a_prototype_is_the_mean_of_the_boxes_of_a_label(photos, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    prototypes, errors = make_prototypes(make_detector(), [*photos, broken])
    assert prototypes.labels == ("plum", "tomato")  # no box is a "thing"
    assert prototypes.features[:, [0, 2]].argmax(axis=1).tolist() == [0, 1]
    np.testing.assert_allclose(np.linalg.norm(prototypes.features, axis=1), 1, rtol=1e-5)
    (error,) = errors
    assert "broken.png" in error


def test_prototypes_are_read_as_they_were_written(photos, tmp_path):
    prototypes, _ = make_prototypes(make_detector(), photos)
    prototypes.save(tmp_path / "prototypes.npz")
    loaded = ImagePrototypes.load(tmp_path / "prototypes.npz")
    assert (loaded.labels, loaded.fingerprint) == (prototypes.labels, "colour")
    np.testing.assert_allclose(loaded.features, prototypes.features, atol=1e-3)


def test_one_box_is_too_few(photos):
    with pytest.raises(DatasetError, match="give more photos"):
        make_prototypes(make_detector(), photos[:1])


def test_boxes_must_be_confident(photos):
    with pytest.raises(DatasetError, match="give more photos"):
        make_prototypes(make_detector(score=0.4), photos)


def test_photos_that_cannot_be_read_are_the_reason(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"None of the photos can be read; .*broken\.png"):
        make_prototypes(make_detector(), [broken])
