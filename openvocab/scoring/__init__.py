"""From features to scores and detections."""

from openvocab.scoring._class_head import ClassHead, Scores
from openvocab.scoring._image_prototypes import ImagePrototypes
from openvocab.scoring._label_model import LabelModel

__all__ = ["ClassHead", "ImagePrototypes", "LabelModel", "Scores"]
