"""The networks: one file per family, and a registry of their names."""

from tellapart.models.registry import MODELS, ModelEntry, create, entry, larger

__all__ = ["MODELS", "ModelEntry", "create", "entry", "larger"]
