"""A trained network with all that its answers need, in one file; this side needs torch."""
