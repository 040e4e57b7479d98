"""Exported classifiers, run without torch."""
