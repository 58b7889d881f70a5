"""`ImagePrototypes`: what things of a detector's labels look like to an encoder."""

import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from openvocab._internal.files import write_atomic
from openvocab.errors import ModelError
from openvocab.types import Features


@dataclass(frozen=True, slots=True, eq=False)
class ImagePrototypes:
    """The mean image feature of each label, for one encoder."""

    labels: tuple[str, ...]
    """`(M,)`, of a detector."""
    features: Features
    """`(M, D)`, unit rows."""
    fingerprint: str
    """Of the encoder."""

    def for_labels(self, labels: Sequence[str]) -> tuple[Features, NDArray[np.bool_]]:
        """Prototypes `(L, D)` of a detector's labels, and which of them have one `(L,)`."""
        rows = {label: row for row, label in enumerate(self.labels)}
        known = np.array([label in rows for label in labels], np.bool_)
        result = np.zeros((len(labels), self.features.shape[1]), np.float32)
        result[known] = self.features[[rows[label] for label in labels if label in rows]]
        return result, known

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an `.npz` file of plain arrays in half precision (no pickle).

        Raises:
            OpenVocabError: the file cannot be written.
        """
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            labels=np.array(json.dumps(self.labels)),
            features=self.features.astype(np.float16),
            fingerprint=np.array(self.fingerprint),
        )
        write_atomic(path, buffer.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file that `save` wrote.

        Raises:
            ModelError: the file is missing or is not one.
        """
        try:
            with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                labels = tuple(map(str, json.loads(str(arrays["labels"]))))
                features = arrays["features"].astype(np.float32)
                fingerprint = str(arrays["fingerprint"])
            lengths = np.linalg.norm(features, axis=1, keepdims=True).reshape(len(labels), 1)
            return cls(labels, features / lengths, fingerprint)
        # NumPy, zipfile, zlib and json raise a dozen kinds of errors on a damaged file.
        except Exception as error:
            raise ModelError(
                f"{path} is not a file of image prototypes ({type(error).__name__}); make one with "
                "`openvocab calibrate --unlabelled PHOTOS`."
            ) from error
