"""Image encoders and detectors as graphs for other runtimes."""
