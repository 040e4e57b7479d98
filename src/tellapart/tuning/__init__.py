"""The search for better settings of a recipe, on validation pictures alone."""
