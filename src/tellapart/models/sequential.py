"""A custom network from a list of layers, whose shapes are checked before training."""

import itertools
import math
import reprlib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tellapart.errors import LayerError, did_you_mean, printable
from tellapart.models.base import Network
from tellapart.models.layers import LAYERS, MONOTONIC, TYPE_NAMES, Layer, Shape
from tellapart.recipe.fields import check_values

MAX_PARAMETERS = 2**30  # per layer, 4 GiB of weights


class SequentialNetwork(Network):
    """The layers of a list, followed by a linear layer to the K classes.

    Raises `LayerError` if the layers do not fit together for images of C x size x size. Weights are initialized as in
    He et al. 2015, "Delving deep into rectifiers", section 2.2, forward case; biases are zero.
    """

    head_name = "classifier"

    def __init__(
        self, num_classes: int, in_channels: int, layers: Sequence[Layer | Mapping[str, Any]], size: int
    ) -> None:
        super().__init__(in_channels, min_size=size, exact_size=size)
        self.layers = parse_layers(layers)
        shapes = trace_shapes(self.layers, in_channels, size)
        width = _feature_width(shapes[-1], num_classes)
        modules = [layer.build(shape) for layer, shape in zip(self.layers, shapes, strict=False)]
        self.features = nn.Sequential(*_pool_before_activation(modules))
        self.classifier = nn.Linear(width, num_classes)
        _initialize(self)

    def embed(self, images: Tensor) -> Tensor:
        """Return the output of the last layer of the list (N, F)."""
        return self.forward_sequence(self.features, images)


def parse_layers(tables: Sequence[Layer | Mapping[str, Any]]) -> tuple[Layer, ...]:
    """Convert tables to layers and validate all values, also those of `Layer` objects; raises `LayerError`."""
    if isinstance(tables, (str, bytes)) or not isinstance(tables, Sequence):
        raise LayerError(f"The layers must be a list of tables or Layer objects, not {reprlib.repr(tables)}.")
    if not tables:
        raise LayerError("The list of layers is empty: add at least one layer, such as flatten.")
    return tuple(_parse(number, table) for number, table in enumerate(tables, start=1))


def to_tables(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """Return tables of plain values, for JSON and TOML; the inverse of `parse_layers`.

    They include defaults, so that a saved network does not depend on them.
    """
    return [
        {"type": TYPE_NAMES[type(layer)]} | {key: value for key, value in vars(layer).items() if value is not None}
        for layer in layers
    ]


def load_layers(path: Path) -> list[dict[str, Any]]:
    """Return the tables of a TOML file, which must contain `[[layers]]` only; raises `LayerError`."""
    name = printable(str(path))
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LayerError(f"Cannot read the layers {name}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, or an integer of over 4,300 digits
        raise LayerError(f"{name} is not TOML: {error}.") from error
    for key in document:
        if key != "layers":
            raise LayerError(
                f"Unknown key '{printable(key)}' in {name}: expected only [[layers]].{did_you_mean(key, ['layers'])}"
            )
    layers = document.get("layers", [])
    if not isinstance(layers, list) or not layers:
        raise LayerError(f"{name} has no layers: expected one [[layers]] table per layer.")
    return layers


def trace_shapes(layers: Sequence[Layer], in_channels: int, size: int) -> list[Shape]:
    """Return the input shape of each layer and the output shape of the last; raises `LayerError`."""
    shapes: list[Shape] = [(in_channels, size, size)]
    for number, layer in enumerate(layers, start=1):
        shapes.append(_shape_after(_label(number, TYPE_NAMES[type(layer)], layer.name), layer, shapes[-1]))
    return shapes


def _shape_after(label: str, layer: Layer, shape: Shape) -> Shape:
    requirement = _unmet_requirement(layer, shape)
    if requirement:
        raise LayerError(f"{label}: got the input shape {_format_shape(shape)}, requires {requirement}.")
    with torch.device("meta"):  # parameters without memory
        module = layer.build(shape)
    _check_count(label, sum(parameter.numel() for parameter in module.parameters()))
    return layer.output_shape(shape)


def _unmet_requirement(layer: Layer, shape: Shape) -> str | None:
    if layer.takes == "flat" and len(shape) == 3:
        return f"a flat shape such as {math.prod(shape)}: put flatten or global_pool before it"
    if layer.takes == "pixels" and len(shape) == 1:
        return "channels x height x width: put it before flatten or global_pool"
    side = max(1, layer.shrinkage + 1)
    if len(shape) == 3 and min(shape[1:]) < side:
        return f"at least {side} x {side} pixels: remove a pooling or stride before it, or use larger images"
    return layer.unmet_requirement(shape)


def _feature_width(shape: Shape, num_classes: int) -> int:
    if len(shape) != 1:
        raise LayerError(
            f"The last layer has the output shape {_format_shape(shape)}, but the linear layer to the classes requires "
            "a flat shape: end with global_pool or flatten."
        )
    _check_count("The linear layer to the classes", (shape[0] + 1) * num_classes)
    return shape[0]


def _check_count(label: str, count: int) -> None:
    if count > MAX_PARAMETERS:
        raise LayerError(
            f"{label}: expected at most {MAX_PARAMETERS:,} parameters, found {count:,}: choose a smaller width, or "
            "pool before it."
        )


def _format_shape(shape: Shape) -> str:
    return " x ".join(map(str, shape))


def _pool_before_activation(modules: list[nn.Module]) -> list[nn.Module]:
    """Swap max pooling with a preceding monotonic activation: the same result with fewer computations."""
    ordered = list(modules)
    for index, (first, second) in enumerate(itertools.pairwise(modules)):
        if isinstance(first, MONOTONIC) and isinstance(second, nn.MaxPool2d):
            ordered[index : index + 2] = second, first
    return ordered


def _initialize(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _label(number: int, kind: str, name: Any) -> str:
    return f"Layer {number} ({kind} '{printable(name)}')" if isinstance(name, str) else f"Layer {number} ({kind})"


def _parse(number: int, table: Layer | Mapping[str, Any]) -> Layer:
    if isinstance(table, Layer) and type(table) in TYPE_NAMES:
        table = {"type": TYPE_NAMES[type(table)], **vars(table)}
    if not isinstance(table, Mapping):
        raise LayerError(f"Layer {number}: expected a table or a Layer object, found {reprlib.repr(table)}.")
    kind = table.get("type")
    if not isinstance(kind, str) or kind not in LAYERS:
        expected = f"type: expected one of {', '.join(LAYERS)}"
        raise LayerError(f"Layer {number}: {expected}, found {reprlib.repr(kind)}.{did_you_mean(str(kind), LAYERS)}")
    values = {key: value for key, value in table.items() if key != "type"}
    label = _label(number, kind, table.get("name"))
    return LAYERS[kind](**check_values(LAYERS[kind], values, f"{label}: ", LayerError))
