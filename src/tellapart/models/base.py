"""The base class of all networks: features, head, stages, and activation checkpointing."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from tellapart.errors import InputShapeError


class Network(nn.Module):
    """A classifier of normalized images: float (N, C, S, S) -> logits (N, K).

    Subclasses define `embed`, and `head_name`, the dotted name of the last linear layer(s). Separating the features
    from the head allows linear probing and out-of-distribution detection.

    auxiliary: names of the heads that only training uses. min_size: the smallest side S. exact_size: the only side S,
    for networks whose dense layers require it. activation_checkpointing: store only some activations for the backward
    pass and recompute the others, to save memory (Chen et al. 2016, "Training deep nets with sublinear memory cost").
    """

    head_name: str
    auxiliary: tuple[str, ...] = ()

    def __init__(self, in_channels: int, min_size: int = 8, exact_size: int | None = None) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.min_size = min_size
        self.exact_size = exact_size
        self.activation_checkpointing = False

    def embed(self, images: Tensor) -> Tensor:
        """Return the features (N, F), the input of the head."""
        raise NotImplementedError

    @property
    def head(self) -> nn.Module:
        """The layer from features (N, F) to logits (N, K)."""
        return self.get_submodule(self.head_name)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, K); raises `InputShapeError` for images of an unsupported shape."""
        self.check_shape(images)
        logits: Tensor = self.head(self.embed(images))
        return logits

    def training_outputs(self, images: Tensor) -> list[tuple[float, Tensor]]:
        """Return pairs of loss weight and logits (N, K), first those of `forward`, then of the auxiliary heads."""
        return [(1.0, self(images))]

    def check_shape(self, images: Tensor) -> None:
        """Raise `InputShapeError` unless the shape of images is (N, C, H, W) with supported C, H and W."""
        shape = tuple(images.shape)
        name = type(self).__name__
        if len(shape) != 4 or shape[1] != self.in_channels:
            raise InputShapeError(f"{name}: expected images of shape (N, {self.in_channels}, S, S), found {shape}.")
        if self.exact_size is not None and shape[2:] != (self.exact_size, self.exact_size):
            raise InputShapeError(
                f"{name}: expected images of {self.exact_size} x {self.exact_size} pixels, found {shape[2]} x "
                f"{shape[3]}: resize the images, or build the network with size={shape[2]}."
            )
        if min(shape[2:]) < self.min_size:
            raise InputShapeError(
                f"{name}: expected images of at least {self.min_size} x {self.min_size} pixels, found {shape[2]} x "
                f"{shape[3]}: resize the images."
            )

    def stages(self) -> list[list[nn.Parameter]]:
        """Return the parameters before the head in groups, from the input to the output.

        A group is a block of `features` if the network has them, else a child module; a norm is in the group of the
        convolution before it. Auxiliary heads are excluded.
        """
        head = {id(parameter) for parameter in self.head.parameters()}
        groups: list[list[nn.Parameter]] = []
        for block in self._blocks():
            parameters = [parameter for parameter in block.parameters() if id(parameter) not in head]
            if groups and isinstance(block, _BatchNorm):
                groups[-1] += parameters
            elif parameters:
                groups.append(parameters)
        return groups

    def forward_sequence(self, sequence: nn.Sequential, x: Tensor) -> Tensor:
        """Return `sequence(x)`, checkpointed in segments of about sqrt(length) with `activation_checkpointing`."""
        if not (self.activation_checkpointing and self.training):
            output: Tensor = sequence(x)
            return output
        length = max(1, round(math.sqrt(len(sequence))))
        for start in range(0, len(sequence), length):
            segment = sequence[start : start + length]
            x = checkpoint(segment, x, use_reentrant=False, context_fn=partial(_contexts, segment))
        return x

    def _blocks(self) -> Iterator[nn.Module]:
        for name, child in self.named_children():
            if name in self.auxiliary:
                continue
            if name in ("features", "classifier"):
                yield from child.children()
            else:
                yield child


def smallest_side(small_stem: bool) -> int:
    """Return the smallest side for networks that halve it five times, or three times with the small stem."""
    return 8 if small_stem else 32


def last_linear(module: nn.Module) -> nn.Linear:
    """Return the last linear layer of a module, which may be the module itself."""
    return [child for child in module.modules() if isinstance(child, nn.Linear)][-1]


def _contexts(segment: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _freeze_statistics(segment)


@contextmanager
def _freeze_statistics(segment: nn.Module) -> Iterator[None]:
    """Do not update the statistics of BatchNorm, while a segment is recomputed."""
    norms = [m for m in segment.modules() if isinstance(m, _BatchNorm) and m.track_running_stats and m.training]
    originals = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, count in originals:
            norm.momentum, norm.num_batches_tracked = momentum, count
