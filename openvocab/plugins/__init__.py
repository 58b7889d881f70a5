"""Open vocabulary inside other programs."""
