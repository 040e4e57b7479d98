"""What a network consists of and costs, told without computing it, on torch's meta device: shapes without content."""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, UntypedStorage, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode

from tellapart.errors import WrongInput
from tellapart.html import table
from tellapart.models.base import Network

Storages = dict[int, UntypedStorage]


@dataclass(frozen=True)
class LayerRow:
    """One module of a network: without modules inside, or with parameters or multiplications of its own.

    name: dotted path in the network. kind: its class. shape: of its output without the batch, as of its last call;
    empty if it is never called itself. parameters: its own, not those of modules inside it. macs: multiplications with
    an addition for one picture, its own, over all its calls. training_only: an auxiliary head, which predictions do
    without.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    macs: int
    training_only: bool = False


@dataclass(frozen=True)
class Summary:
    """A network for pictures of channels x size x size pixels and this many classes.

    layers: in the order of execution. parameters: of all rows. macs: of one picture when predicting, so without the
    rows for training only. memory: bytes to train with `batch` pictures at a time in float32. "weights" includes the
    statistics of BatchNorm, "optimizer" is AdamW's two moments, "average" the moving average of the weights and the
    copy of the best ones, "activations" what the backward pass needs of one batch, the pictures included. "total" is
    their sum, without the passing needs of single operations, the data set and torch itself. Measured on a processor,
    the tensors took 2 to 10% more, and holes that the allocator leaves between them made it 10 to 40%.
    """

    model: str
    size: int
    channels: int
    classes: int
    batch: int
    layers: tuple[LayerRow, ...]
    parameters: int
    macs: int
    memory: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return plain values, with "flops": two for each multiplication and addition."""
        return asdict(self) | {"flops": 2 * self.macs}

    def _repr_html_(self) -> str:
        """Return the layers as a table, for notebooks."""
        size = f"{self.channels} x {self.size} x {self.size}"
        rows = (
            (row.name, row.kind, " x ".join(map(str, row.shape)), f"{row.parameters:,}", f"{row.macs:,}")
            for row in self.layers
        )
        title = f"{self.model}, for pictures of {size}: {self.parameters:,} parameters, {self.macs:,} MACs"
        return table(title, ("layer", "kind", "output", "parameters", "MACs"), rows)


def summarise(network: Network, name: str, size: int, batch: int = 32) -> Summary:
    """Summarise a network that was built on torch's meta device, for pictures of size x size pixels.

    Raises `WrongInput` for a size that the network does not take, and a batch that it cannot be trained with.
    """
    if batch < 1:
        raise WrongInput(f"A batch holds at least 1 picture, not {batch}.")
    if not all(parameter.is_meta for parameter in network.parameters()):
        raise ValueError('Only a network built under `with torch.device("meta"):` can be summarised.')
    rows = _rows(network, size)
    classes = network.eval()(_images(network, size, 1)).shape[1]
    parameters = sum(parameter.numel() for parameter in network.parameters())
    macs = sum(row.macs for row in rows if not row.training_only)
    memory = _memory(network.train(), _images(network, size, batch))
    return Summary(name, size, network.in_channels, classes, batch, rows, parameters, macs, memory)


def _images(network: Network, size: int, batch: int) -> Tensor:
    return torch.empty(batch, network.in_channels, size, size, device="meta")


def _rows(network: Network, size: int) -> tuple[LayerRow, ...]:
    """Return the rows as called for a prediction, then those that only training calls, then those never called."""
    rows = _trace(network.eval(), _images(network, size, 1), network)
    if network.auxiliary:
        training = _trace(network.train(), _images(network, size, 2), network.training_outputs)
        for name in [name for name in training if name not in rows]:
            rows[name] = replace(training[name], macs=training[name].macs // 2, training_only=True)
    own = _own_parameters(network)
    for name in [name for name in own if name not in rows]:
        rows[name] = LayerRow(name, type(network.get_submodule(name)).__name__, (), 0, 0)
    return tuple(replace(row, parameters=own[name]) for name, row in rows.items())


def _own_parameters(network: nn.Module) -> Counter[str]:
    """Return the number of parameters that each module holds itself; one that two modules share counts once."""
    own: Counter[str] = Counter()
    for name, parameter in network.named_parameters():
        own[name.rpartition(".")[0]] += parameter.numel()
    return own


class _Tracer:
    """Writes a row for each call of a module, by hooks before and after it."""

    def __init__(self, counter: FlopCounterMode) -> None:
        self.counter = counter
        self.rows: dict[str, LayerRow] = {}
        self.starts: list[int] = []  # FLOPs before each open call, and of what was called inside it

    def before(self, module: nn.Module, inputs: Any) -> None:  # noqa: ARG002
        self.starts.append(self.counter.get_total_flops())

    def after(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG002
        flops = self.counter.get_total_flops() - self.starts.pop()
        self.starts = [start + flops for start in self.starts]
        if flops or list(module.parameters(recurse=False)) or not list(module.children()):
            shape = tuple(output.shape[1:]) if isinstance(output, Tensor) else ()
            before = self.rows[name].macs if name in self.rows else 0
            self.rows[name] = LayerRow(name, type(module).__name__, shape, 0, before + flops // 2)


def _trace(network: Network, images: Tensor, call: Callable[[Tensor], Any]) -> dict[str, LayerRow]:
    """Return a row, still without parameters, for each module that `call` calls; macs are of all images together."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        tracer = _Tracer(counter)
        modules = list(network.named_modules())
        handles = [module.register_forward_pre_hook(tracer.before) for _, module in modules]
        handles += [module.register_forward_hook(partial(tracer.after, name)) for name, module in modules]
        call(images)
    for handle in handles:
        handle.remove()
    return tracer.rows


def _memory(network: Network, images: Tensor) -> dict[str, int]:
    """Return the bytes of each kind, and of all, to train with these images (N, C, S, S)."""
    trained = sum(parameter.nbytes for parameter in network.parameters())
    weights = trained + sum(buffer.nbytes for buffer in network.buffers())
    found = {"weights": weights, "gradients": trained, "optimizer": 2 * trained, "average": 2 * weights}
    return found | {"activations": (kept := _activations(network, images)), "total": sum(found.values()) + kept}


def _activations(network: Network, images: Tensor) -> int:
    """Return the bytes that are kept from the forward to the backward pass of images (N, C, S, S).

    With `checkpoint_activations` these are the inputs of the segments, and what the largest segment computes anew.
    """
    own = set(network.modules())
    segments: list[tuple[nn.Module, Tensor]] = []

    def note(module: nn.Module, inputs: tuple[Tensor]) -> None:
        sliced = isinstance(module, nn.Sequential) and module not in own  # by `Network.through`
        if sliced and network.checkpoint_activations:
            segments.append((module, inputs[0]))

    with register_module_forward_pre_hook(note):
        kept = _bytes(_saved(partial(_loss, network, images)) | _storage(images), network)
    anew = [_bytes(_saved(partial(segment, x)) | _storage(x), network) - x.nbytes for segment, x in segments]
    return kept + max(anew, default=0)


def _loss(network: Network, images: Tensor) -> Tensor:
    labels = torch.zeros(len(images), dtype=torch.long, device="meta")
    try:
        outputs = network.training_outputs(images)
    except ValueError as error:  # torch's, of a BatchNorm that sees one value of each channel
        raise WrongInput(f"This network cannot be trained with batches of {len(images)}: {error}") from error
    return torch.stack([weight * F.cross_entropy(logits, labels) for weight, logits in outputs]).sum()


def _saved(call: Callable[[], Tensor]) -> Storages:
    """Return what autograd saves while `call` runs; tensors that share their memory are one."""
    saved: Storages = {}

    def pack(tensor: Tensor) -> Tensor:
        saved.update(_storage(tensor))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return saved


def _storage(tensor: Tensor) -> Storages:
    """Return a tensor's memory by its identity, which stays its own for as long as the result lives."""
    return {tensor.untyped_storage()._cdata: tensor.untyped_storage()}


def _bytes(storages: Storages, module: nn.Module) -> int:
    """Return the bytes of all storages that are not a module's own parameters and buffers."""
    own = {tensor.untyped_storage()._cdata for tensor in (*module.parameters(), *module.buffers())}
    return sum(storage.nbytes() for key, storage in storages.items() if key not in own)
