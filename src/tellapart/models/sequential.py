"""A network of your own: a list of layers whose shapes are checked before anything is trained."""

import dataclasses
import itertools
import math
import reprlib
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tellapart.errors import BadLayers, did_you_mean, printable
from tellapart.models.base import Network
from tellapart.models.layers import LAYERS, RISING, TYPES, Layer, Shape

MAX_PARAMETERS = 2**30  # of one layer; 4 GiB of weights


class Layered(Network):
    """The layers of a list in their order, then a linear layer to the K classes.

    Raises `BadLayers` where they do not fit together for images of C x size x size. Weights are drawn as in He et al.
    2015, "Delving deep into rectifiers", section 2.2, forward case; biases are zero.
    """

    head_name = "classifier"

    def __init__(
        self, num_classes: int, in_channels: int, layers: Sequence[Layer | Mapping[str, Any]], size: int
    ) -> None:
        super().__init__(in_channels, min_size=size, exact_size=size)
        self.layers = parse_layers(layers)
        shapes = trace_shapes(self.layers, in_channels, size)
        width = _end_width(shapes[-1], num_classes)
        modules = [layer.build(shape) for layer, shape in zip(self.layers, shapes, strict=False)]
        self.features = nn.Sequential(*_pooled_first(modules))
        self.classifier = nn.Linear(width, num_classes)
        _initialise(self)

    def embed(self, images: Tensor) -> Tensor:
        """Return what the last layer of the list gives (N, F)."""
        return self.through(self.features, images)


def parse_layers(tables: Sequence[Layer | Mapping[str, Any]]) -> tuple[Layer, ...]:
    """Turn tables into layers, checking every key and value, of `Layer` objects too; raises `BadLayers`."""
    if isinstance(tables, (str, bytes)) or not isinstance(tables, Sequence):
        raise BadLayers(f"The layers must be a list with a table or Layer for each, not {reprlib.repr(tables)}.")
    if not tables:
        raise BadLayers("The list of layers is empty: give at least one, such as flatten.")
    return tuple(_parse(number, table) for number, table in enumerate(tables, start=1))


def to_tables(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """Return plain values, for JSON and TOML, that `parse_layers` reads back.

    Defaults are written out, so that a saved network stays the same should a default ever change.
    """
    return [
        {"type": TYPES[type(layer)]} | {key: value for key, value in vars(layer).items() if value is not None}
        for layer in layers
    ]


def load_layers(path: Path) -> list[dict[str, Any]]:
    """Read the `[[layers]]` of a TOML file, which holds nothing else; raises `BadLayers`."""
    name = printable(str(path))
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadLayers(f"Cannot read the layers {name}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, a number of over 4,300 digits
        raise BadLayers(f"{name} is not TOML: {error}.") from error
    for key in document:
        if key != "layers":
            raise BadLayers(
                f"Unknown key '{printable(key)}' in {name}: expected only [[layers]].{did_you_mean(key, ['layers'])}"
            )
    layers = document.get("layers", [])
    if not isinstance(layers, list) or not layers:
        raise BadLayers(f"{name} holds no layers: expected a [[layers]] table for each.")
    return layers


def trace_shapes(layers: Sequence[Layer], in_channels: int, size: int) -> list[Shape]:
    """Return the shape before each layer, and the one after the last; raises `BadLayers` for the first misfit."""
    shapes: list[Shape] = [(in_channels, size, size)]
    for number, layer in enumerate(layers, start=1):
        shapes.append(_shape_after(_place(number, TYPES[type(layer)], layer.name), layer, shapes[-1]))
    return shapes


def _shape_after(place: str, layer: Layer, shape: Shape) -> Shape:
    needs = _needs(layer, shape)
    if needs:
        raise BadLayers(f"{place}: got the shape {_times(shape)}, needs {needs}.")
    with torch.device("meta"):  # parameters without memory
        module = layer.build(shape)
    _check_count(place, sum(parameter.numel() for parameter in module.parameters()))
    return layer.after(shape)


def _needs(layer: Layer, shape: Shape) -> str | None:
    if layer.takes == "flat" and len(shape) == 3:
        return f"a flat one such as {math.prod(shape)}: put flatten or global_pool before it"
    if layer.takes == "pixels" and len(shape) == 1:
        return "channels x height x width: put it before the first flatten or global_pool"
    side = max(1, layer.cut + 1)
    if len(shape) == 3 and min(shape[1:]) < side:
        return f"at least {side} x {side} pixels: remove a pooling or stride above it, or use larger pictures"
    return layer.misfit(shape)


def _end_width(shape: Shape, num_classes: int) -> int:
    if len(shape) != 1:
        raise BadLayers(
            f"The layers end with the shape {_times(shape)}, and the classes need a flat one: end with global_pool or "
            "flatten."
        )
    _check_count("The last linear layer, to the classes", (shape[0] + 1) * num_classes)
    return shape[0]


def _check_count(place: str, count: int) -> None:
    if count > MAX_PARAMETERS:
        raise BadLayers(
            f"{place}: would have {count:,} parameters, and the most is {MAX_PARAMETERS:,}: choose a smaller width, "
            "or pool before it."
        )


def _times(shape: Shape) -> str:
    return " x ".join(map(str, shape))


def _pooled_first(modules: list[nn.Module]) -> list[nn.Module]:
    """Put maximum pooling before a rising activation: the same values, of which fewer are computed."""
    ordered = list(modules)
    for place, (first, second) in enumerate(itertools.pairwise(modules)):
        if isinstance(first, RISING) and isinstance(second, nn.MaxPool2d):
            ordered[place : place + 2] = second, first
    return ordered


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _place(number: int, kind: str, name: Any) -> str:
    return f"Layer {number} ({kind} '{printable(name)}')" if isinstance(name, str) else f"Layer {number} ({kind})"


def _parse(number: int, table: Layer | Mapping[str, Any]) -> Layer:
    if isinstance(table, Layer) and type(table) in TYPES:
        table = {"type": TYPES[type(table)], **vars(table)}
    if not isinstance(table, Mapping):
        raise BadLayers(f"Layer {number} must be a table of keys or one of LAYERS, not {reprlib.repr(table)}.")
    kind = table.get("type")
    if not isinstance(kind, str) or kind not in LAYERS:
        known = f"type must be one of {', '.join(LAYERS)}"
        raise BadLayers(f"Layer {number}: {known}, not {reprlib.repr(kind)}.{did_you_mean(str(kind), LAYERS)}")
    values = {key: value for key, value in table.items() if key != "type"}
    _check_values(_place(number, kind, table.get("name")), LAYERS[kind], values)
    return LAYERS[kind](**values)


def _check_values(place: str, kind: type[Layer], values: Mapping[str, Any]) -> None:
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key, value in values.items():
        if key not in fields:
            known = f"expected one of {', '.join(fields)}"
            raise BadLayers(f"{place}: unknown key '{printable(str(key))}', {known}.{did_you_mean(str(key), fields)}")
        kinds, metadata = typing.get_args(hints[key]) or (hints[key],), fields[key].metadata
        if not _allowed(value, kinds, metadata):
            close = did_you_mean(str(value), metadata.get("choices", ()))
            raise BadLayers(f"{place}: {key} must be {_expected(kinds, metadata)}, not {reprlib.repr(value)}.{close}")
    for key, field in fields.items():
        if field.default is MISSING and key not in values:
            needed = _expected((hints[key],), field.metadata)
            raise BadLayers(f"{place}: the key '{key}' is missing, give it {needed}.")


def _allowed(value: Any, kinds: tuple[type, ...], metadata: Mapping[str, Any]) -> bool:
    if value is None or isinstance(value, bool):
        return type(value) in kinds
    if isinstance(value, str):
        return str in kinds and value in metadata.get("choices", (value,))
    if isinstance(value, (int, float)) and (type(value) in kinds or float in kinds):
        return bool(metadata["low"] <= value <= metadata["high"])  # also refuses NaN
    return False


def _expected(kinds: tuple[type, ...], metadata: Mapping[str, Any]) -> str:
    choices = [f"'{choice}'" for choice in metadata.get("choices", ())]
    words = f"one of {', '.join(choices)}" if len(choices) > 1 else "".join(choices) or "text"
    limits = f"from {metadata['low']:g} to {metadata['high']:g}" if "low" in metadata else ""
    texts = {int: f"a whole number {limits}", float: f"a number {limits}", bool: "true or false", str: words}
    return " or ".join(text for kind, text in texts.items() if kind in kinds)
