"""Several networks that vote, as one network: the mean of their probabilities, and of several views of a picture."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tellapart.errors import WrongInput
from tellapart.models.base import Network

SAME, MIRRORED = "same", "mirrored"
SHIFTS = {"left": (0, 1), "right": (0, -1), "up": (1, 0), "down": (-1, 0)}  # down and to the right, in steps
_STEPS = 32  # so many steps are the side of a picture


@dataclass(frozen=True)
class Member:
    """A network that votes, what its images are normalised by (C,), and what its logits are divided by."""

    network: Network
    mean: Sequence[float]
    std: Sequence[float]
    temperature: float = 1.0


class Ensemble(Network):
    """Takes images from 0 to 1, which each member normalises in its own way; the logits are those of the mean vote.

    views: how the members see each image, by names of `view`; each view has a vote. Its features are those of all
    members in all views, side by side. Hansen and Salamon 1990, "Neural network ensembles"; the vote is
    soft, as in Lakshminarayanan et al. 2017, "Simple and scalable predictive uncertainty estimation using deep
    ensembles", section 2.4.
    """

    head_name = "vote"

    def __init__(self, members: Sequence[Member], views: Sequence[str] = (SAME,)) -> None:
        if not members or not views:
            raise WrongInput("An ensemble needs at least one network, and one view.")
        if unknown := set(views) - {SAME, MIRRORED, *SHIFTS}:
            raise WrongInput(f"There is no view '{min(unknown)}' of a picture.")
        networks = [member.network for member in members]
        sides = {network.exact_size for network in networks if network.exact_size is not None}
        if len(sides) > 1 or len({network.in_channels for network in networks}) > 1:
            raise WrongInput("The networks of an ensemble must take images of one size and number of channels.")
        super().__init__(networks[0].in_channels, max(n.min_size for n in networks), next(iter(sides), None))
        self.views = tuple(views)
        heats = [member.temperature for member in members]
        if not all(0 < heat < math.inf for heat in heats):
            raise WrongInput(f"The temperatures of an ensemble must be finite and above 0, not {heats}.")
        self.vote = Vote([network.head for network in networks], heats, len(views))
        for network in networks:
            network.set_submodule(network.head_name, nn.Identity())  # it is in the vote
        self.members = nn.ModuleList(networks)
        for name in ("mean", "std"):
            values = torch.tensor([list(getattr(member, name)) for member in members])[:, :, None, None]  # M C 1 1
            self.register_buffer(name, values, persistent=False)

    def embed(self, images: Tensor) -> Tensor:
        """Return all members' features (N, F), side by side, of one view after the other."""
        found = [
            network.embed((seen - self.mean[place]) / self.std[place])  # type: ignore[index, operator]
            for seen in (view(images, name) for name in self.views)
            for place, network in enumerate(self.members)
        ]
        return torch.cat(found, dim=1)


class Vote(nn.Module):
    """Turns all members' features (N, F), in so many views, into the logarithm of their mean probabilities (N, K)."""

    def __init__(self, heads: Sequence[nn.Module], temperatures: Sequence[float], views: int = 1) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.temperatures = tuple(temperatures)
        linear = [next(part for part in head.modules() if isinstance(part, nn.Linear)) for head in heads]
        self.widths = [layer.in_features for layer in linear] * views

    def forward(self, features: Tensor) -> Tensor:
        """(N, F) -> (N, K)."""
        voters = list(zip(self.heads, self.temperatures, strict=True))
        parts = torch.split(features, self.widths, dim=1)
        votes = [
            torch.log_softmax(head(part) / heat, dim=1)
            for part, (head, heat) in zip(parts, voters * (len(parts) // len(voters)), strict=True)
        ]
        return torch.logsumexp(torch.stack(votes), dim=0) - math.log(len(votes))


def view(images: Tensor, name: str) -> Tensor:
    """Return images (N, C, S, S) as they are, mirrored, or shifted by a 32nd of their side, their rim repeated."""
    if name == SAME:
        return images
    if name == MIRRORED:
        return images.flip(-1)
    step = max(1, round(images.shape[-1] / _STEPS))
    height, width = images.shape[-2:]
    down, right = (step * (1 + way) for way in SHIFTS[name])
    wide = functional.pad(images, (step,) * 4, mode="replicate")
    return wide[..., down : down + height, right : right + width]
