"""Bitwise reproducible results on a GPU."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tellapart.errors import RecipeError

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # cuBLAS reads it when it is initialized


@contextmanager
def use_deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """If enabled, restrict a GPU to deterministic algorithms inside the context; a CPU needs no restriction.

    Raises `RecipeError` for a network with a layer that has no deterministic algorithm.
    """
    if not (enabled and torch.cuda.is_available()):
        yield
        return
    workspace = os.environ.get(_WORKSPACE)
    mode = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault(_WORKSPACE, ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise RecipeError(
            f"A layer of this network has no deterministic algorithm: set execution.deterministic=false ({error})."
        ) from error
    finally:
        torch.use_deterministic_algorithms(mode, warn_only=warn_only)
        if workspace is None:
            del os.environ[_WORKSPACE]
