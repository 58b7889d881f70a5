"""From features to scores and detections."""

from openvocab.scoring._class_head import ClassHead, Scores

__all__ = ["ClassHead", "Scores"]
