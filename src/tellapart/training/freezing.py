"""Layers that keep their pretrained weights or statistics during training."""

from torch import nn

from tellapart.models.base import Network
from tellapart.recipe.sections import FineTuningRecipe


def freeze(network: Network, settings: FineTuningRecipe) -> None:
    """With `freeze_backbone`, exclude all parameters but those of the head from training."""
    if settings.freeze_backbone:
        network.requires_grad_(False)
        network.head.requires_grad_(True)


def set_mode(network: Network, settings: FineTuningRecipe, frozen_norms: bool) -> None:
    """Set the network to training mode, except frozen layers. frozen_norms: keep the statistics of BatchNorm."""
    network.train()
    if settings.freeze_backbone:
        network.eval()
        network.head.train()
    elif frozen_norms:
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
