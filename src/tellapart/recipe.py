"""`Recipe`: every knob of a run, as frozen dataclasses and as TOML.

A value of None (in TOML: a missing key) is chosen from the data, and the choice stands in the run's `recipe.toml`.
"""

import dataclasses
import math
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from tellapart.errors import BadRecipe, did_you_mean, printable


def _number(default: float | None, low: float, high: float) -> Any:
    return field(default=default, metadata={"low": low, "high": high})


def _choice(default: str | None, *choices: str) -> Any:
    return field(default=default, metadata={"choices": choices})


@dataclass(frozen=True)
class DataRecipe:
    """Shares of the split, and what to do with doubtful pictures.

    leaks: what to do when a given split holds one picture in two parts: `refuse`, or `drop` the training side's copy.
    max_unreadable: the share of pictures that may be unreadable; one may be in any case, unless the share is 0.
    """

    validation: float = _number(0.15, 0.01, 0.8)
    test: float = _number(0.15, 0.01, 0.8)
    leaks: str = _choice("refuse", "refuse", "drop")
    max_unreadable: float = _number(0.01, 0.0, 1.0)


@dataclass(frozen=True)
class PreprocessRecipe:
    """How pictures are brought to the network's square; see `tellapart.preprocess.torch_resize`."""

    resize: str | None = _choice(None, "squash", "crop", "pad")
    size: int | None = _number(None, 8, 1024)
    channels: int | None = _number(None, 1, 3)


@dataclass(frozen=True)
class AugmentRecipe:
    """How far a training picture may be changed; 0 turns a change off.

    flip: mirror left and right in half of the cases. rotation: degrees, either way. zoom: 0.1 is from 1/1.1 to 1.1.
    shift: share of the side, either way. shear: tangent of the slant. brightness, contrast: share, either way.
    alternating_flip: mirror in every other epoch instead of by chance; it says how to flip, so it needs `flip`.
    policy: operations drawn from a list, besides the changes above; of `randaugment` their number is policy_ops, and
    policy_strength their share of the widest range (9 of 30 in the paper). erase: how often a box is painted over.
    mixup, cutmix: alpha of the Beta distribution of the share of two blended pictures; with both, each pair draws one.
    """

    flip: bool | None = None
    rotation: float | None = _number(None, 0, 180)
    zoom: float | None = _number(None, 0, 2)
    shift: float | None = _number(None, 0, 0.5)
    shear: float | None = _number(None, 0, 1)
    brightness: float | None = _number(None, 0, 1)
    contrast: float | None = _number(None, 0, 1)
    alternating_flip: bool = False
    policy: str = _choice("none", "none", "randaugment", "trivialaugment")
    policy_ops: int = _number(2, 1, 14)
    policy_strength: float = _number(0.3, 0, 1)
    erase: float = _number(0.0, 0, 1)
    mixup: float = _number(0.0, 0, 100)
    cutmix: float = _number(0.0, 0, 100)


@dataclass(frozen=True)
class TrainingRecipe:
    """Loss, optimiser, schedule and when to stop.

    budget: seconds that training may take; it replaces `epochs`. learning_rate: the schedule's peak. backbone_rate: the
    backbone's share of it when fine-tuning; stage_rate: each stage's share of the rate of the one after it.
    frozen_base: train the head alone. head_epochs: passes over frozen features before fine-tuning, of the pictures and
    head_views changed copies of each. ema: decay of the average of the weights, 0 for none. monitor: what "best" and
    "no better" mean, on validation. patience: epochs without a better one before stopping, 0 for never. precision: auto
    is bfloat16 where the processor has it. checkpoint_activations: less memory for very deep networks, more time.
    checkpoint_minutes, checkpoint_steps: save the run's state so often, whichever comes first. accumulate: compute a
    batch in so many pieces, for less memory. sync_batch_norm: BatchNorm over all ranks' share of a batch together.
    autotune: try how this machine computes fastest, at the start. deterministic: the same bits from run to run on a GPU
    too, slower; a processor needs no such order.

    loss, focal_gamma: see `tellapart.training.losses`. class_balance: show rare classes as often as others (`sample`),
    or count them more (`weight`); prior_correction: tell probabilities for the data's own frequencies all the same.
    teacher: a classifier's file or a run's folder to learn from, with its share of the loss (teacher_weight) and what
    its logits are divided by (teacher_temperature). start_size: side of the pictures at the start, which grows.
    """

    epochs: int | None = _number(None, 1, 100_000)
    budget: float | None = _number(None, 1, 10_000_000)
    batch_size: int | None = _number(None, 2, 4096)
    optimizer: str | None = _choice(None, "adam", "adamw", "sgd", "muon")
    learning_rate: float | None = _number(None, 1e-7, 10)
    weight_decay: float | None = _number(None, 0, 1)
    schedule: str = _choice("one-cycle", "one-cycle", "cosine")
    label_smoothing: float = _number(0.1, 0, 0.9)
    ema: float = _number(0.99, 0, 0.99999)
    monitor: str = _choice("accuracy", "accuracy", "macro_f1", "log_loss")
    patience: int = _number(0, 0, 10_000)
    head_epochs: int = _number(30, 0, 10_000)
    head_views: int = _number(8, 0, 1000)
    backbone_rate: float = _number(0.1, 0, 1)
    precision: str = _choice("auto", "auto", "float32", "bfloat16")
    frozen_base: bool = False
    stage_rate: float = _number(1.0, 0, 1)
    checkpoint_activations: bool = False
    checkpoint_minutes: float = _number(1.0, 0, 10_000)
    checkpoint_steps: int | None = _number(None, 1, 10_000_000)
    accumulate: int = _number(1, 1, 1024)
    sync_batch_norm: bool = False
    autotune: bool = True
    deterministic: bool = False
    loss: str = _choice("cross_entropy", "cross_entropy", "focal")
    focal_gamma: float = _number(2.0, 0, 10)
    class_balance: str = _choice("none", "none", "sample", "weight")
    prior_correction: bool = True
    teacher: str | None = None
    teacher_weight: float = _number(0.5, 0, 1)
    teacher_temperature: float = _number(2.0, 0.1, 100)
    start_size: int | None = _number(None, 8, 1024)


@dataclass(frozen=True)
class HeadRecipe:
    """The layers that replace the network's last one. widths: of dense layers before it, each with ReLU and dropout."""

    widths: tuple[int, ...] = field(default=(), metadata={"low": 1, "high": 8192})
    dropout: float = _number(0.5, 0, 0.99)


@dataclass(frozen=True)
class EvaluationRecipe:
    """What the classifier says of its own answers.

    coverage: the share of prediction sets that hold the right class; class_conditional: for the pictures of each class,
    not only on average. unfamiliar_share: of pictures of the known kind that may be called unfamiliar.
    """

    coverage: float = _number(0.95, 0.5, 0.9999)
    class_conditional: bool = False
    unfamiliar_share: float = _number(0.01, 0, 0.5)


@dataclass(frozen=True)
class Recipe:
    """Every knob of a run.

    model: a name of `tellapart models`, timm:NAME, or "layered" with `layers`, a list of tables. pretrained: start from
    published weights. weights: start from those in this file.
    """

    model: str | None = None
    layers: tuple[dict[str, Any], ...] | None = None
    pretrained: bool | None = None
    weights: str | None = None
    seed: int = _number(0, 0, 2**31 - 1)
    head: HeadRecipe = HeadRecipe()
    data: DataRecipe = DataRecipe()
    preprocess: PreprocessRecipe = PreprocessRecipe()
    augment: AugmentRecipe = AugmentRecipe()
    training: TrainingRecipe = TrainingRecipe()
    evaluation: EvaluationRecipe = EvaluationRecipe()

    def with_values(self, **values: Any) -> "Recipe":
        """Return a copy with some values replaced, named as in `training__epochs=5`; each is checked.

        None leaves a value open.
        """
        table = self.to_table()
        for name, value in values.items():
            section, _, key = name.rpartition("__")
            place = table.setdefault(section, {}) if section else table
            if not isinstance(place, dict):
                raise BadRecipe(f"{printable(section)} in the recipe is a value and has no keys below it.")
            if value is None:
                place.pop(key, None)
            else:
                place[key] = value
        return from_table(table)

    def to_table(self) -> dict[str, Any]:
        """Return the recipe as nested dicts, without the values that are None."""
        return _without_none(dataclasses.asdict(self))

    def to_toml(self) -> str:
        """Return the recipe as TOML."""
        return tomli_w.dumps(self.to_table())


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a table of tables as one, its keys joined by dots as in training.epochs."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def from_table(table: dict[str, Any]) -> Recipe:
    """Build a recipe from nested dicts; raises `BadRecipe` for an unknown key or a bad value."""
    recipe: Recipe = _build(Recipe, table, "")
    return recipe


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from a TOML file; raises `BadRecipe`."""
    try:
        return from_table(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise BadRecipe(f"Cannot read the recipe {printable(str(path))}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadRecipe(f"{printable(str(path))} is not TOML: {error}.") from error


def parse_assignment(text: str) -> tuple[str, Any]:
    """Turn `training.epochs=5` into ("training__epochs", 5); a value that is not TOML counts as a string."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip() or "\n" in text:
        raise BadRecipe(f"Expected key=value, as in training.epochs=5, found '{printable(text)}'.")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    return key.strip().replace(".", "__"), parsed


def _build(kind: type, table: dict[str, Any], prefix: str) -> Any:
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    values = {}
    for key, value in table.items():
        if key not in fields:
            known = f" Expected one of {', '.join(prefix + f for f in fields)}."
            raise BadRecipe(
                f"Unknown key '{printable(prefix + key)}' in the recipe.{did_you_mean(key, fields) or known}"
            )
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise BadRecipe(f"{prefix}{key} in the recipe must be a table of keys, not {value!r}.")
            values[key] = _build(typing.cast(type, hints[key]), value, f"{prefix}{key}.")
        else:
            values[key] = _checked(f"{prefix}{key}", value, hints[key], fields[key].metadata)
    return kind(**values)


def _checked(name: str, value: Any, hint: Any, metadata: typing.Mapping[str, Any]) -> Any:
    kinds = [
        k for k in (typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)) if k is not type(None)
    ]
    kind = kinds[0]
    if typing.get_origin(kind) is tuple:
        return _checked_list(name, value, typing.get_args(kind)[0], metadata)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**53 else math.inf * (1 if value > 0 else -1)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise BadRecipe(f"{name} must be of type {_type_name(kind)}, not {value!r}.")
    choices = metadata.get("choices")
    if choices and value not in choices:
        raise BadRecipe(f"{name} must be one of {', '.join(choices)}, not '{value}'.{did_you_mean(value, choices)}")
    if "low" in metadata and not metadata["low"] <= value <= metadata["high"]:  # also refuses NaN
        raise BadRecipe(f"{name} must be from {metadata['low']:g} to {metadata['high']:g}, not {value!r}.")
    return value


def _checked_list(name: str, value: Any, hint: Any, metadata: typing.Mapping[str, Any]) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise BadRecipe(f"{name} must be a list, not {value!r}.")
    hint = typing.get_origin(hint) or hint
    return tuple(_checked(f"{name}[{number}]", item, hint, metadata) for number, item in enumerate(value))


def _type_name(kind: type) -> str:
    return {dict: "table", float: "number", int: "whole number", bool: "true or false", str: "text"}[kind]


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in table.items() if v is not None}
