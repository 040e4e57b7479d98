"""The whole life of a run: train, cross-validate, combine."""
