"""Calibrated probabilities, prediction sets and out-of-distribution scores."""
