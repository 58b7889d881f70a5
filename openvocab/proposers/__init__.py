"""Detectors that say where things are."""
