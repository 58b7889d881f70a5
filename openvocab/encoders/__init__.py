"""Encoders that map regions and words into one space."""
