"""Evaluation on labelled images: datasets, metrics, calibration, report."""
