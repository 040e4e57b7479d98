"""What every network offers: features before the head, the head by name, stages, and bounded memory."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from tellapart.errors import WrongInput


class Network(nn.Module):
    """A classifier of normalised images: float (N, C, S, S) -> logits (N, K).

    Subclasses set `head_name`, the dotted name of the last linear layer(s), and write `embed`. The split lets
    training fit the head on frozen features, and evaluation measure how familiar a picture is.

    auxiliary: names of heads that only training uses. min_size: the smallest side S. exact_size: the only side, for
    networks whose dense layers fix it. checkpoint_activations: keep only some activations for the backward pass and
    compute the others anew, to save memory (Chen et al. 2016, "Training deep nets with sublinear memory cost").
    """

    head_name: str
    auxiliary: tuple[str, ...] = ()

    def __init__(self, in_channels: int, min_size: int = 8, exact_size: int | None = None) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.min_size = min_size
        self.exact_size = exact_size
        self.checkpoint_activations = False

    def embed(self, images: Tensor) -> Tensor:
        """Return the features (N, F) that the head turns into logits."""
        raise NotImplementedError

    @property
    def head(self) -> nn.Module:
        """The layer that turns features (N, F) into logits (N, K)."""
        return self.get_submodule(self.head_name)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, K); raises `WrongInput` for images of another shape than the network takes."""
        self.check(images)
        logits: Tensor = self.head(self.embed(images))
        return logits

    def training_outputs(self, images: Tensor) -> list[tuple[float, Tensor]]:
        """Return the logits that the loss is summed over, each with its weight; the first are `forward`'s."""
        return [(1.0, self(images))]

    def check(self, images: Tensor) -> None:
        """Raise `WrongInput` unless images are (N, C, S, S') with this network's C and sides that it takes."""
        shape = tuple(images.shape)
        name = type(self).__name__
        if len(shape) != 4 or shape[1] != self.in_channels:
            raise WrongInput(f"{name} takes images of shape (N, {self.in_channels}, S, S), not {shape}.")
        if self.exact_size is not None and shape[2:] != (self.exact_size, self.exact_size):
            raise WrongInput(
                f"This {name} was built for sides of {self.exact_size} pixels, not {shape[2]} x {shape[3]}: resize the "
                f"images, or build it with size={shape[2]}."
            )
        if min(shape[2:]) < self.min_size:
            raise WrongInput(f"This {name} takes sides from {self.min_size} pixels, not {shape[2]} x {shape[3]}.")

    def stages(self) -> list[list[nn.Parameter]]:
        """Return the parameters before the head in groups from the input to the output.

        A group is a block of `features` where the network has them, else one of its parts; a norm joins the
        convolution before it. Heads that only training uses are in none.
        """
        head = {id(parameter) for parameter in self.head.parameters()}
        groups: list[list[nn.Parameter]] = []
        for part in self._parts():
            members = [parameter for parameter in part.parameters() if id(parameter) not in head]
            if groups and isinstance(part, _BatchNorm):
                groups[-1] += members
            elif members:
                groups.append(members)
        return groups

    def through(self, sequence: nn.Sequential, x: Tensor) -> Tensor:
        """Return `sequence(x)`; with `checkpoint_activations` in segments of about the square root of its length."""
        if not (self.checkpoint_activations and self.training):
            whole: Tensor = sequence(x)
            return whole
        length = max(1, round(math.sqrt(len(sequence))))
        for start in range(0, len(sequence), length):
            segment = sequence[start : start + length]
            x = checkpoint(segment, x, use_reentrant=False, context_fn=partial(_contexts, segment))
        return x

    def _parts(self) -> Iterator[nn.Module]:
        for name, child in self.named_children():
            if name in self.auxiliary:
                continue
            if name in ("features", "classifier"):
                yield from child.children()
            else:
                yield child


def smallest_side(small_stem: bool) -> int:
    """Return the smallest side for networks that halve it five times, or three times after the small stem."""
    return 8 if small_stem else 32


def last_linear(module: nn.Module) -> nn.Linear:
    """Return the last linear layer in a module, itself included."""
    return [part for part in module.modules() if isinstance(part, nn.Linear)][-1]


def _contexts(segment: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_kept(segment)


@contextmanager
def _statistics_kept(segment: nn.Module) -> Iterator[None]:
    """While a segment is computed anew, BatchNorm must not count its batch a second time."""
    norms = [m for m in segment.modules() if isinstance(m, _BatchNorm) and m.track_running_stats and m.training]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum, norm.num_batches_tracked = momentum, count
