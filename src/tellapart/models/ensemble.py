"""Several networks that vote, as one network: the mean of their probabilities."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tellapart.errors import WrongInput
from tellapart.models.network import Network


@dataclass(frozen=True)
class Member:
    """A network that votes, what its images are normalised by (C,), and what its logits are divided by."""

    network: Network
    mean: Sequence[float]
    std: Sequence[float]
    temperature: float = 1.0


class Ensemble(Network):
    """Takes images from 0 to 1, which each member normalises in its own way; the logits are those of the mean vote.

    Its features are those of all members side by side. Hansen and Salamon 1990, "Neural network ensembles"; the vote is
    soft, as in Lakshminarayanan et al. 2017, "Simple and scalable predictive uncertainty estimation using deep
    ensembles", section 2.4.
    """

    head_name = "vote"

    def __init__(self, members: Sequence[Member]) -> None:
        if not members:
            raise WrongInput("An ensemble needs at least one network.")
        networks = [member.network for member in members]
        sides = {network.exact_size for network in networks if network.exact_size is not None}
        if len(sides) > 1 or len({network.in_channels for network in networks}) > 1:
            raise WrongInput("The networks of an ensemble must take images of one size and number of channels.")
        super().__init__(networks[0].in_channels, max(n.min_size for n in networks), next(iter(sides), None))
        self.vote = Vote([network.head for network in networks], [member.temperature for member in members])
        for network in networks:
            network.set_submodule(network.head_name, nn.Identity())  # it is in the vote
        self.members = nn.ModuleList(networks)
        for name in ("mean", "std"):
            values = torch.tensor([list(getattr(member, name)) for member in members])[:, :, None, None]  # M C 1 1
            self.register_buffer(name, values, persistent=False)

    def embed(self, images: Tensor) -> Tensor:
        """Return all members' features (N, F), side by side."""
        found = [
            network.embed((images - self.mean[place]) / self.std[place])  # type: ignore[index, operator]
            for place, network in enumerate(self.members)
        ]
        return torch.cat(found, dim=1)


class Vote(nn.Module):
    """Turns all members' features (N, F) into the logarithm of their mean probabilities (N, K)."""

    def __init__(self, heads: Sequence[nn.Module], temperatures: Sequence[float]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.temperatures = tuple(temperatures)
        linear = [next(part for part in head.modules() if isinstance(part, nn.Linear)) for head in heads]
        self.widths = [layer.in_features for layer in linear]

    def forward(self, features: Tensor) -> Tensor:
        """(N, F) -> (N, K)."""
        parts = torch.split(features, self.widths, dim=1)
        voters = zip(self.heads, self.temperatures, parts, strict=True)
        votes = [torch.log_softmax(head(part) / heat, dim=1) for head, heat, part in voters]
        return torch.logsumexp(torch.stack(votes), dim=0) - math.log(len(votes))
