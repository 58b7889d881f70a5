"""Open vocabulary inside other people's programs."""
