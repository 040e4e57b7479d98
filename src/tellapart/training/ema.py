"""The exponential moving average (EMA) of the weights."""

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of the weights and statistics of a network (Polyak and Juditsky 1992).

    The decay increases with the steps, so that the initial weights do not dominate the average of a short run.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.values = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the current weights of the network."""
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
