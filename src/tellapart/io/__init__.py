"""Files, caches, downloads and databases."""
