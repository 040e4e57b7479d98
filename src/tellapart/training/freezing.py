"""What of a network stays as it was published while the rest is trained."""

from torch import nn

from tellapart.models.base import Network
from tellapart.recipe import TrainingRecipe


def freeze(network: Network, training: TrainingRecipe) -> None:
    """With `frozen_base`, let the head alone be trained."""
    if training.frozen_base:
        network.requires_grad_(False)
        network.head.requires_grad_(True)


def set_mode(network: Network, training: TrainingRecipe, frozen_norms: bool) -> None:
    """Set the network to training mode, but for what is frozen. frozen_norms: keep BatchNorm's statistics."""
    network.train()
    if training.frozen_base:
        network.eval()
        network.head.train()
    elif frozen_norms:
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
