"""Progressive resizing: small pictures first, which train faster, then larger ones.

Howard 2018 (fast.ai's DAWNBench entry); Tan and Le 2021, "EfficientNetV2", section 4. Augmentation does not grow here.
"""

from torch import Tensor
from torch.nn import functional as F

from tellapart.errors import BadRecipe
from tellapart.models.base import Network
from tellapart.recipe import Recipe

_GROWING = 0.6  # share of training after which pictures have their full size
_LARGE = 32  # networks with this smallest side halve theirs five times


def size_at(recipe: Recipe, share_done: float, step: int) -> int:
    """Return the side of the pictures, in pixels, when the share 0..1 of training is done.

    It grows linearly from `training.start_size` in multiples of `step`, and is `preprocess.size` from 0.6 on.
    """
    full, start = recipe.preprocess.size or 0, recipe.training.start_size
    if start is None or share_done >= _GROWING:
        return full
    linear = start + (full - start) * max(0.0, share_done) / _GROWING
    return max(start, int(linear // step) * step)


def size_step(network: Network) -> int:
    """Return what the side of the pictures grows by: sides that the network halves without a remainder."""
    return _LARGE if network.min_size >= _LARGE else 8


def shrunk(images: Tensor, size: int) -> Tensor:
    """Return images (n, C, S, S) as (n, C, size, size), antialiased; as they are if they have that size."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)


def check_start_size(recipe: Recipe, network: Network) -> None:
    """Raise `BadRecipe` if the network or the full size does not allow the recipe's start_size."""
    start, full = recipe.training.start_size, recipe.preprocess.size or 0
    if start is None:
        return
    name = recipe.model or type(network).__name__
    if network.exact_size is not None:
        raise BadRecipe(
            f"training.start_size={start} needs a network that takes pictures of any size, and {name} takes only "
            f"{network.exact_size} pixels: leave it out."
        )
    if not network.min_size <= start <= full:
        raise BadRecipe(
            f"training.start_size must be from {network.min_size}, the smallest side of {name}, to preprocess.size, "
            f"{full}, not {start}."
        )
