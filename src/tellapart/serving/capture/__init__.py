"""Images of a server that are worth a label, and drift."""
