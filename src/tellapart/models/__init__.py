"""Networks: one file per family, and a registry of their names."""

from tellapart.models.registry import MODELS, ModelEntry, create, get_entry, larger_models

__all__ = ["MODELS", "ModelEntry", "create", "get_entry", "larger_models"]
