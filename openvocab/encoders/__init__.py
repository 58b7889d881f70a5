"""Encoders that map regions and words into the same space."""
