"""How good a preset is on labelled pictures: datasets, figures, calibration, report."""
