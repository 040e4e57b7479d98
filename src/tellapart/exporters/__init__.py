"""A classifier in other formats, with the same answers."""
