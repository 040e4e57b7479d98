"""`Classifier`: network, preprocess, temperature and class names in one file; loading it runs no code.

Format, version 2: a safetensors file (8 bytes of header length, a JSON header, the weights). The header's metadata
holds `tellapart`, a JSON document of all that is not weights; its `checksum` is the SHA-256 over the rest of it, the
table of weights and the weights. The same classifier always gives the same bytes. Each defect has an error of its own:
cut short, edited, of another version, no classifier at all.
"""

import hashlib
import itertools
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from tellapart.classifier.forward import default_device, features_and_logits
from tellapart.data.batching import PixelTable
from tellapart.data.image import Picture
from tellapart.errors import (
    BadClassifierFile,
    CutClassifierFile,
    EditedClassifierFile,
    TellapartError,
    UnknownModel,
    WrongVersionClassifierFile,
    did_you_mean,
    printable,
)
from tellapart.inference.prediction import Answers, checked_classes, checked_temperature
from tellapart.inference.predictor import Predictor
from tellapart.io.atomic import write_atomic
from tellapart.models import MODELS, create, entry
from tellapart.models.base import Network
from tellapart.models.pretrained import fill
from tellapart.models.timm_models import PREFIX
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.preprocess.torch_resize import Preprocess
from tellapart.progress import Progress, TerminalProgress
from tellapart.uncertainty.conformal import SetRule
from tellapart.uncertainty.ood import Familiarity
from tellapart.uncertainty.softmax import softmax

FORMAT_VERSION = 2
_MAX_HEADER = 100 * 2**20
_REPLACED = 100  # parameters of a network that are made and then replaced, as those of its head, and more than enough
# What the parts of a document that is no classifier's raise where they are taken for one.
_DEFECTS = (ArithmeticError, AttributeError, LookupError, RecursionError, RuntimeError, TypeError, ValueError)
_FAMILIARITY = "familiarity."  # before the names of tensors that are not weights
_PACKAGES = ("tellapart", "torch", "numpy", "pillow", "simplejpeg")


@dataclass(frozen=True)
class Architecture:
    """What `tellapart.models.create` needs to build the network again."""

    name: str
    num_classes: int
    in_channels: int
    arguments: dict[str, Any] = field(default_factory=dict)

    def build(self) -> Network:
        """Return the network with fresh weights."""
        return create(self.name, self.num_classes, self.in_channels, **self.arguments)


@dataclass(frozen=True)
class Classifier(Predictor):
    """Tells pictures apart: pixels (H, W, 3) of any size -> calibrated probabilities (K).

    sets, familiarity: what else it says of a picture, learnt on validation pictures; None for published weights.
    facts: test metrics, data fingerprint, recipe and package versions, as in the file's JSON document.
    """

    architecture: Architecture
    network: Network
    preprocess: PreprocessSettings
    classes: tuple[str, ...]
    temperature: float = 1.0
    sets: SetRule | None = None
    familiarity: Familiarity | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Classifier {self.architecture.name}: {len(self.classes):,} classes, {self.preprocess.size} pixels>"

    def answers(self, pixels: PixelTable) -> Answers:
        """Return all that is said of pictures already resized by the preprocess, (N, S, S, 3)."""
        preprocess = Preprocess(self.preprocess).to(next(self.network.parameters()).device)
        features, found = features_and_logits(self.network, preprocess, pixels)
        probabilities = softmax(found, self.temperature)
        sets = self.sets.members(probabilities) if self.sets else None
        return Answers(probabilities, sets, self.familiarity.familiar(features) if self.familiarity else None)

    def resize(self, picture: Picture) -> Picture:
        """Return a picture (H, W, 3) as the network takes it, (S, S, 3)."""
        return Preprocess(self.preprocess).resize(picture)

    def resize_key(self) -> str:
        """Return a string that is equal where `resize` gives equal bits, for pixels that are kept."""
        return Preprocess(self.preprocess).resize_key()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the classifier as one file, as a whole or not at all; raises `CannotSave`."""
        write_atomic(Path(path), self.to_bytes())

    def to_bytes(self) -> bytes:
        """Return the content of the classifier's file."""
        weights = {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}
        if self.familiarity:
            weights |= {_FAMILIARITY + k: torch.from_numpy(v) for k, v in self.familiarity.tensors().items()}
        document = self.document()
        table, data = _parts(safetensors.torch.save(weights), "the new file")
        document["checksum"] = _checksum(document, table, data)
        return safetensors.torch.save(weights, {"tellapart": json.dumps(document, ensure_ascii=False)})

    def document(self) -> dict[str, Any]:
        """Return the JSON document: everything but the weights."""
        return {
            "format_version": FORMAT_VERSION,
            "architecture": vars(self.architecture),
            "classes": list(self.classes),
            "preprocess": self.preprocess.to_json(),
            "temperature": self.temperature,
            "sets": self.sets.to_json() if self.sets else None,
            "familiarity": self.familiarity.to_json() if self.familiarity else None,
            **self.facts,
        }


def load(model: str | os.PathLike[str], progress: Progress | None = None) -> Classifier:
    """Return the classifier in a file, or a network with published weights by its name.

    Weights that are not on this machine are fetched from their publisher, which is said first.
    Raises `BadClassifierFile`, or the class below it that names the defect, or `UnknownModel`.
    """
    path = Path(model)
    if os.path.isfile(path):
        return load_file(path)
    name = os.fspath(model)
    if os.path.isfile(path / "model.safetensors"):
        return load_file(path / "model.safetensors")
    if name in MODELS or name.startswith(PREFIX):
        return load_pretrained(name, progress or TerminalProgress())
    if (path / "recipe.toml").is_file():
        raise UnknownModel(
            f"The run in {printable(name)} has no classifier yet: end it by the command that began it, with --resume."
        )
    of_source = (Path("runs") / path).as_posix()
    near = [of_source] if os.path.isfile(f"{of_source}/model.safetensors") else []
    near += [found.parent.as_posix() for found in path.parent.glob("*/model.safetensors")]
    hint = f" Did you mean '{of_source}'?" if of_source in near else did_you_mean(name, [*MODELS, *near])
    raise UnknownModel(
        f"There is no file and no published model '{printable(name)}': expected a classifier file (.safetensors), a "
        f"run's folder, or a name with published weights (see `tellapart models`).{hint}"
    )


def load_pretrained(name: str, progress: Progress) -> Classifier:
    """Return a network with its published weights, telling the classes that it was trained on.

    Raises `UnknownModel` if it has none, `MissingExtra` or `DownloadFailed` (both say what to fetch), or `BadWeights`.
    """
    found = entry(name)
    pretrained = found.pretrained
    if pretrained is None:
        raise UnknownModel(f"The model '{name}' has no published weights: train it first with `tellapart train`.")
    classes = pretrained.classes()
    settings = pretrained.preprocess
    architecture = Architecture(name, len(classes), settings.channels, found.arguments(settings.size, pretrained=True))
    network = architecture.build()
    fill(network, pretrained.load(progress), with_head=True)
    network = network.to(default_device()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Classifier(architecture, network.eval(), settings, classes, facts={"source": pretrained.source})


def load_file(path: Path) -> Classifier:
    """Read a classifier file; raises the subclass of `BadClassifierFile` for its defect."""
    name = printable(str(path))
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadClassifierFile(f"Cannot read {name}: {error.strerror}.") from error
    return from_bytes(content, name)


def from_bytes(content: bytes, name: str) -> Classifier:
    """Return the classifier in a file's content; name: of the file. Raises as `load_file` does."""
    table, data = _parts(content, name)
    document = _document(table.pop("__metadata__", {}), name)
    if document.pop("checksum", None) != _checksum(document, table, data):
        raise EditedClassifierFile(
            f"{name} was changed after it was saved (its checksum does not match): use the original file."
        )
    try:
        architecture = Architecture(**document["architecture"])
        _check_weights(architecture, table)
        return _from_document(document, architecture, safetensors.torch.load(content))
    except (*_DEFECTS, safetensors.SafetensorError, TellapartError) as error:
        raise BadClassifierFile(
            f"{name} does not describe a classifier that this release can build: {error}."
        ) from error


def is_classifier(path: Path) -> bool:
    """Whether a file says of itself that it is a classifier of tellapart."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return "tellapart" in (file.metadata() or {})
    except (OSError, safetensors.SafetensorError):
        return False


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that a classifier's numbers depend on."""
    return {package: version(package) for package in _PACKAGES}


def _check_weights(architecture: Architecture, table: dict[str, Any]) -> None:
    """Compare the network that a file describes with the weights in its table, before any memory is taken for it.

    Raises ValueError where they differ, and what `create` raises.
    """
    weights = {name: tuple(entry["shape"]) for name, entry in table.items() if not name.startswith(_FAMILIARITY)}
    with torch.device("meta"), _at_most(2 * len(weights) + _REPLACED):
        network = architecture.build()
    needed = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    if needed != weights:
        wrong = sorted(name for name in needed.keys() | weights.keys() if needed.get(name) != weights.get(name))
        raise ValueError(
            f"its weights are not those of the network that it describes: {len(wrong)} differ, the first is "
            f"{printable(wrong[0])}"
        )


@contextmanager
def _at_most(count: int) -> Iterator[None]:
    """Raise ValueError as soon as a network that this thread builds has more parameters than that."""
    seen, thread = itertools.count(1), threading.get_ident()

    def look(*_: Any) -> None:
        if threading.get_ident() == thread and next(seen) > count:
            raise ValueError("the network that it describes has more parameters than the file has weights")

    hook = register_module_parameter_registration_hook(look)
    try:
        yield
    finally:
        hook.remove()


def _from_document(
    document: dict[str, Any], architecture: Architecture, weights: dict[str, torch.Tensor]
) -> Classifier:
    network = architecture.build()
    arrays = {
        name.removeprefix(_FAMILIARITY): weights.pop(name).numpy()
        for name in list(weights)
        if name.startswith(_FAMILIARITY)
    }
    network.load_state_dict(weights)
    network = network.to(default_device()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    known = ("format_version", "architecture", "classes", "preprocess", "temperature", "sets", "familiarity")
    classes = checked_classes(document["classes"])
    if len(classes) != architecture.num_classes:
        raise ValueError(f"{len(classes)} class names for {architecture.num_classes} outputs")
    sets = SetRule.from_json(document["sets"]) if document["sets"] else None
    if sets and len(sets.limits) != len(classes):
        raise ValueError(f"limits of prediction sets for {len(sets.limits)} of {len(classes)} classes")
    return Classifier(
        architecture,
        network.eval(),
        PreprocessSettings.from_json(document["preprocess"]),
        classes,
        checked_temperature(document["temperature"]),
        sets,
        Familiarity.from_file(arrays, document["familiarity"]) if document["familiarity"] else None,
        {key: value for key, value in document.items() if key not in known},
    )


def _parts(content: bytes, name: str) -> tuple[dict[str, Any], memoryview]:
    """Return the header and the weights' bytes; raises `BadClassifierFile` or `CutClassifierFile`."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 16 or length > _MAX_HEADER or content[8:9] != b"{":
        raise BadClassifierFile(f"{name} is not a classifier file: expected a .safetensors file saved by tellapart.")
    if len(content) < 8 + length:
        raise CutClassifierFile(f"{name} is cut short inside its header: copy it again.")
    try:
        header: dict[str, Any] = json.loads(content[8 : 8 + length])
        ends = [int(entry["data_offsets"][1]) for key, entry in header.items() if key != "__metadata__"]
        header.get("__metadata__", {}).get("tellapart")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise BadClassifierFile(f"{name} has a damaged header: it is not a file saved by tellapart.") from error
    data = memoryview(content)[8 + length :]
    if len(data) < max(ends, default=0):
        raise CutClassifierFile(
            f"{name} is cut short: its header speaks of {max(ends):,} bytes of weights and {len(data):,} are there."
        )
    return header, data


def _document(metadata: dict[str, str], name: str) -> dict[str, Any]:
    if "tellapart" not in metadata:
        raise BadClassifierFile(f"{name} holds weights without a tellapart classifier's description.")
    try:
        document: dict[str, Any] = json.loads(metadata["tellapart"])
        found = document["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EditedClassifierFile(f"{name} has a damaged description: use the original file.") from error
    if found != FORMAT_VERSION:
        raise WrongVersionClassifierFile(
            f"{name} is in format version {found}, and this release reads version {FORMAT_VERSION}: "
            "update tellapart, or save the file anew with the release that wrote it."
        )
    return document


def _checksum(document: dict[str, Any], table: dict[str, Any], data: memoryview) -> str:
    digest = hashlib.sha256(json.dumps([document, table], sort_keys=True).encode())
    digest.update(data)
    return digest.hexdigest()
