"""What can be said of labelled images before a model exists: label issues, learning curves."""
