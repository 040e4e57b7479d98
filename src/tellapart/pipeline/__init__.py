"""The lifecycle of a run: training, cross-validation and ensembles."""
