"""Films and cameras: frames in, tracked and named detections out, for as long as it runs."""
