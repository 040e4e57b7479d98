"""The published architectures, one file a family."""
