"""The description from which a network is built again, and the check that weights fit it."""

import itertools
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from tellapart.errors import printable
from tellapart.models import create
from tellapart.models.base import Network

Shapes = Mapping[str, tuple[int, ...]]
_SPARE_PARAMETERS = 100  # parameters that a constructor may create and replace, such as those of the head


@dataclass(frozen=True)
class Architecture:
    """The arguments of `tellapart.models.create` for a network."""

    name: str
    num_classes: int
    in_channels: int
    arguments: dict[str, Any] = field(default_factory=dict)

    def build(self) -> Network:
        """Return the network with fresh weights."""
        return create(self.name, self.num_classes, self.in_channels, **self.arguments)

    def check_shapes(self, shapes: Shapes) -> None:
        """Compare the network with the shapes of stored weights, without allocating memory for it.

        Raises ValueError if they differ, and the errors of `create`.
        """
        with torch.device("meta"), _limit_parameters(2 * len(shapes) + _SPARE_PARAMETERS):
            network = self.build()
        expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        if expected != shapes:
            names = expected.keys() | shapes.keys()
            different = sorted(name for name in names if expected.get(name) != shapes.get(name))
            raise ValueError(
                f"the weights do not fit the architecture: {len(different)} tensors differ, the first is "
                f"{printable(different[0])}"
            )


@contextmanager
def _limit_parameters(limit: int) -> Iterator[None]:
    """Raise ValueError as soon as this thread registers more than `limit` parameters."""
    counter, thread = itertools.count(1), threading.get_ident()

    def check(*_: Any) -> None:
        if threading.get_ident() == thread and next(counter) > limit:
            raise ValueError("the architecture has more parameters than the file has weights")

    hook = register_module_parameter_registration_hook(check)
    try:
        yield
    finally:
        hook.remove()
