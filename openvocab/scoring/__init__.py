"""From features to scores and detections."""
