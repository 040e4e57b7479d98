"""Recipes: every setting of a run, and the validation of tables."""
