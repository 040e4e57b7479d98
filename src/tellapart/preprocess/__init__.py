"""Preprocessing: from an image of any size to the input of a network."""
