"""Published architectures, one file per family."""
