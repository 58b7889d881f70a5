"""Images in; detections out as annotated images and label files."""
