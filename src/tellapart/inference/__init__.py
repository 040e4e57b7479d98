"""Prediction with a classifier file or an exported file; requires no torch."""
