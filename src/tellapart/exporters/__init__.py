"""Export of a classifier to other formats, with a parity check against the original."""
