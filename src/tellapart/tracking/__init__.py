"""Experiment tracking: the history file of a run, TensorBoard and MLflow."""
