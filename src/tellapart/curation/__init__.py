"""Analysis of labelled images before a model is trained: label issues and learning curves."""
