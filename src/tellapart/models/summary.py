"""Summary of a network: layers, shapes, parameters, MACs and memory, computed on torch's meta device without data."""

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

from tellapart.errors import InputShapeError
from tellapart.models.base import Network
from tellapart.notebook_html import table

Storages = dict[int, UntypedStorage]


@dataclass(frozen=True)
class LayerRow:
    """One module of a network: a leaf, or a module with parameters or operations of its own.

    name: dotted path in the network. kind: its class. shape: output shape of its last call, without the batch; empty if
    it is not called itself. parameters: without those of its children. macs: multiply-accumulate operations per image
    over all its calls, without those of its children. training_only: whether it belongs to an auxiliary head, which is
    not part of inference.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    macs: int
    training_only: bool = False


@dataclass(frozen=True)
class Summary:
    """A network for images of channels x size x size pixels and this number of classes.

    layers: in the order of execution. parameters: of all rows. macs: per image at inference, without the rows for
    training only. memory: bytes to train in float32 with batches of `batch` images. "weights" includes the statistics
    of BatchNorm, "optimizer" the two moments of AdamW, "average" the moving average of the weights and the best
    weights, "activations" the tensors of one batch that are saved for the backward pass, images included. "total" is
    their sum, without temporary buffers, the dataset and torch itself. In measurements on a CPU the tensors took 2 to
    10% more, and fragmentation of the allocator made it 10 to 40%.
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
        """Return a JSON object; "flops" is two per multiply-accumulate operation."""
        return asdict(self) | {"flops": 2 * self.macs}

    def __str__(self) -> str:
        """Return the layers and the memory as a table of text."""
        rows = [("layer", "kind", "output", "parameters", "MACs")]
        for row in self.layers:
            kind = row.kind + " (training only)" * row.training_only
            rows.append((row.name, kind, " x ".join(map(str, row.shape)), f"{row.parameters:,}", f"{row.macs:,}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join([*map(str.ljust, row[:2], widths[:2]), *map(str.rjust, row[2:], widths[2:])]).rstrip()
            for row in rows
        ]
        lines.append(
            f"{self.model}: {self.parameters:,} parameters, {self.macs / 1e9:.3g} GMACs ({2 * self.macs / 1e9:.3g} "
            f"GFLOPs) for an image of {self.channels} x {self.size} x {self.size}, {self.classes} classes"
        )
        if auxiliary := sum(row.parameters for row in self.layers if row.training_only):
            lines.append(f"{auxiliary:,} of the parameters are in auxiliary heads, for training only")
        parts = ", ".join(f"{name} {size / 2**20:,.0f}" for name, size in self.memory.items() if name != "total")
        total = self.memory["total"] / 2**20
        lines.append(f"Memory to train with batches of {self.batch}: {total:,.0f} MiB ({parts})")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Return the layers as an HTML table, for notebooks."""
        size = f"{self.channels} x {self.size} x {self.size}"
        rows = (
            (row.name, row.kind, " x ".join(map(str, row.shape)), f"{row.parameters:,}", f"{row.macs:,}")
            for row in self.layers
        )
        title = f"{self.model}, for images of {size}: {self.parameters:,} parameters, {self.macs:,} MACs"
        return table(title, ("layer", "kind", "output", "parameters", "MACs"), rows)


def summarize(network: Network, name: str, size: int, batch: int = 32) -> Summary:
    """Summarize a network on torch's meta device, for images of size x size pixels.

    Raises `InputShapeError` for an unsupported size, or a batch size that the network cannot be trained with, and
    `ValueError` for a network on another device.
    """
    if batch < 1:
        raise InputShapeError(f"batch: expected at least 1 image, found {batch}.")
    if not all(parameter.is_meta for parameter in network.parameters()):
        raise ValueError('Expected a network on the meta device: build it under `with torch.device("meta"):`.')
    layers = _make_rows(network, size)
    classes = network.eval()(_make_images(network, size, 1)).shape[1]
    parameters = sum(parameter.numel() for parameter in network.parameters())
    macs = sum(row.macs for row in layers if not row.training_only)
    memory = _memory(network.train(), _make_images(network, size, batch))
    return Summary(
        model=name,
        size=size,
        channels=network.in_channels,
        classes=classes,
        batch=batch,
        layers=layers,
        parameters=parameters,
        macs=macs,
        memory=memory,
    )


def _make_images(network: Network, size: int, batch: int) -> Tensor:
    return torch.empty(batch, network.in_channels, size, size, device="meta")


def _make_rows(network: Network, size: int) -> tuple[LayerRow, ...]:
    """Return the rows of inference in the order of calls, then those of training only, then those never called."""
    rows = _trace(network.eval(), _make_images(network, size, 1), network)
    if network.auxiliary:
        training = _trace(network.train(), _make_images(network, size, 2), network.training_outputs)
        for name in [name for name in training if name not in rows]:
            rows[name] = replace(training[name], macs=training[name].macs // 2, training_only=True)
    own = _own_parameters(network)
    for name in [name for name in own if name not in rows]:
        rows[name] = LayerRow(name, type(network.get_submodule(name)).__name__, (), 0, 0)
    return tuple(replace(row, parameters=own[name]) for name, row in rows.items())


def _own_parameters(network: nn.Module) -> Counter[str]:
    """Return the number of parameters of each module without its children; a shared parameter counts once."""
    own: Counter[str] = Counter()
    for name, parameter in network.named_parameters():
        own[name.rpartition(".")[0]] += parameter.numel()
    return own


class _Tracer:
    """Records a row per module, with hooks before and after each call."""

    def __init__(self, counter: FlopCounterMode) -> None:
        self.counter = counter
        self.rows: dict[str, LayerRow] = {}
        self.starts: list[int] = []  # FLOPs before each active call, plus those of its nested calls

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
    """Return a row per module that `call` calls, without parameters; macs are the sum over all images."""
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
    """Return the bytes to train with these images (N, C, S, S), by kind and in total."""
    parameters = sum(parameter.nbytes for parameter in network.parameters())
    weights = parameters + sum(buffer.nbytes for buffer in network.buffers())
    memory = {"weights": weights, "gradients": parameters, "optimizer": 2 * parameters, "average": 2 * weights}
    memory["activations"] = _activation_bytes(network, images)
    return memory | {"total": sum(memory.values())}


def _activation_bytes(network: Network, images: Tensor) -> int:
    """Return the bytes that are saved for the backward pass of images (N, C, S, S).

    With `activation_checkpointing` these are the inputs of the segments, and the recomputed tensors of the largest one.
    """
    modules = set(network.modules())
    segments: list[tuple[nn.Module, Tensor]] = []

    def record_segment(module: nn.Module, inputs: tuple[Tensor]) -> None:
        is_segment = isinstance(module, nn.Sequential) and module not in modules  # of `Network.forward_sequence`
        if is_segment and network.activation_checkpointing:
            segments.append((module, inputs[0]))

    with register_module_forward_pre_hook(record_segment):
        saved = _count_bytes(_saved_storages(partial(_loss, network, images)) | _storage(images), network)
    recomputed = [
        _count_bytes(_saved_storages(partial(segment, x)) | _storage(x), network) - x.nbytes for segment, x in segments
    ]
    return saved + max(recomputed, default=0)


def _loss(network: Network, images: Tensor) -> Tensor:
    labels = torch.zeros(len(images), dtype=torch.long, device="meta")
    try:
        outputs = network.training_outputs(images)
    except ValueError as error:  # of BatchNorm with one value per channel
        raise InputShapeError(
            f"batch: the network cannot be trained with batches of {len(images)} ({error}): use a larger batch."
        ) from error
    return torch.stack([weight * F.cross_entropy(logits, labels) for weight, logits in outputs]).sum()


def _saved_storages(call: Callable[[], Tensor]) -> Storages:
    """Return the storages that autograd saves while `call` runs."""
    saved: Storages = {}

    def pack(tensor: Tensor) -> Tensor:
        saved.update(_storage(tensor))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return saved


def _storage(tensor: Tensor) -> Storages:
    """Return a tensor's storage by its identity, which is unique while the storage exists."""
    return {tensor.untyped_storage()._cdata: tensor.untyped_storage()}


def _count_bytes(storages: Storages, module: nn.Module) -> int:
    """Return the bytes of all storages except those of the module's parameters and buffers."""
    own = {tensor.untyped_storage()._cdata for tensor in (*module.parameters(), *module.buffers())}
    return sum(storage.nbytes() for key, storage in storages.items() if key not in own)
