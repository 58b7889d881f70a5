"""Detectors that find where things are."""
