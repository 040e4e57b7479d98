"""Uncertainty of predictions: calibrated probabilities, prediction sets and out-of-distribution detection."""
