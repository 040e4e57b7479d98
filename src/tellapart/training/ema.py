"""The moving average of the weights."""

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of a network's weights and statistics (Polyak and Juditsky 1992).

    The decay grows with the steps, so that the average of a short run is not held back by its start.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.values = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move towards the network's present weights."""
        self.steps += 1
        weight = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        averages: list[Tensor] = []
        currents: list[Tensor] = []
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                averages.append(self.values[name])
                currents.append(value)
            else:
                self.values[name].copy_(value)
        torch._foreach_lerp_(averages, currents, weight)
