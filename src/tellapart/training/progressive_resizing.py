"""Progressive resizing: training starts with small images, which is faster, and ends with images of full size.

Howard 2018 (fast.ai's DAWNBench entry); Tan and Le 2021, "EfficientNetV2", section 4, without their increase of
augmentation.
"""

from torch import Tensor
from torch.nn import functional as F

from tellapart.errors import RecipeError
from tellapart.models.base import Network
from tellapart.recipe.recipe import Recipe

_GROWTH = 0.6  # fraction of training after which images have their full size
_LARGE = 32  # networks with this smallest side halve the images five times


def size_at(recipe: Recipe, fraction: float, step: int) -> int:
    """Return the side of the images, in pixels, after a fraction 0..1 of training.

    It grows linearly from `schedule.initial_size` in multiples of `step`, and is `preprocess.size` from 0.6 on.
    """
    full, start = recipe.preprocess.size or 0, recipe.schedule.initial_size
    if start is None or fraction >= _GROWTH:
        return full
    linear = start + (full - start) * max(0.0, fraction) / _GROWTH
    return max(start, int(linear // step) * step)


def size_step(network: Network) -> int:
    """Return the increment of the side of the images, so that the network halves it without a remainder."""
    return _LARGE if network.min_size >= _LARGE else 8


def shrink(images: Tensor, size: int) -> Tensor:
    """Return images (n, C, S, S) as (n, C, size, size), with antialiasing; unchanged if S is `size`."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)


def check_initial_size(recipe: Recipe, network: Network) -> None:
    """Raise `RecipeError` if the network or the full size does not allow `schedule.initial_size`."""
    start, full = recipe.schedule.initial_size, recipe.preprocess.size or 0
    if start is None:
        return
    name = recipe.model.name or type(network).__name__
    if network.exact_size is not None:
        raise RecipeError(
            f"schedule.initial_size={start} requires a network for images of any size, but {name} accepts only "
            f"{network.exact_size} pixels: omit schedule.initial_size."
        )
    if not network.min_size <= start <= full:
        raise RecipeError(
            f"Expected schedule.initial_size from {network.min_size}, the smallest side of {name}, to preprocess.size, "
            f"{full}, found {start}."
        )
