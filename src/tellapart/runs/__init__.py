"""Run directories: writing, reading and listing them."""
