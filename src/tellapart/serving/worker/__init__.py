"""The processes that decode and compute."""
