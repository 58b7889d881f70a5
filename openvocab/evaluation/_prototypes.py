"""Image prototypes of a detector's labels, from photos that the detector labels itself."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from openvocab.detector import OpenVocabDetector
from openvocab.errors import DatasetError, ImageError
from openvocab.io._images import load_image
from openvocab.scoring import ImagePrototypes

MIN_OBJECTNESS = 0.5  # 0.3 and 0.7 give similar results (docs/accuracy.md)
_MIN_BOXES = 2  # of a label


def make_prototypes(
    detector: OpenVocabDetector, paths: Iterable[Path]
) -> tuple[ImagePrototypes, list[str]]:
    """Average the features of the detector's confident boxes, by its labels.

    Source: class means of prototypical networks (Snell et al., NeurIPS 2017).

    Args:
        detector: labels and encodes the photos.
        paths: photos, which need no labels.

    Returns:
        The prototypes of labels with two boxes or more, and the errors of unreadable images.

    Raises:
        DatasetError: no label has two confident boxes, or no photo can be read.
    """
    features_by_label = defaultdict(list)
    errors: list[str] = []
    count = 0
    for count, path in enumerate(paths, 1):  # noqa: B007  used after the loop
        try:
            image = load_image(path)
        except ImageError as error:
            errors.append(str(error))
            continue
        (regions,) = detector.encode_images([image], [MIN_OBJECTNESS])
        for label_id, feature in zip(regions.proposals.label_ids, regions.features, strict=True):
            features_by_label[int(label_id)].append(feature)
    label_ids = sorted(
        label_id for label_id, features in features_by_label.items() if len(features) >= _MIN_BOXES
    )
    if errors and len(errors) == count:
        raise DatasetError(f"None of the photos can be read; the first: {errors[0]}")
    if not label_ids:
        raise DatasetError(
            "No label of the detector has two confident boxes in these photos; give more photos."
        )
    means = np.stack([np.mean(features_by_label[label_id], axis=0) for label_id in label_ids])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    labels = tuple(detector.proposer.labels[label_id] for label_id in label_ids)
    prototypes = ImagePrototypes(labels, means.astype(np.float32), detector.encoder.fingerprint)
    return prototypes, errors
