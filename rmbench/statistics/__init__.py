"""Intervals, paired tests and calibration: numbers in, numbers out; knows nothing of models and files."""
