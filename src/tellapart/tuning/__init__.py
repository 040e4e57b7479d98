"""Hyperparameter search on validation images."""
