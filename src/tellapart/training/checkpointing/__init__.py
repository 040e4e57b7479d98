"""Checkpoints: their content, files and schedule."""
