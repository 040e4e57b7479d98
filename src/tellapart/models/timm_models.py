"""Networks and published weights of the package timm, by names such as timm:resnet18, where it is installed."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import Tensor

from tellapart.errors import DownloadFailed, MissingExtra, UnknownModel, did_you_mean, printable
from tellapart.models.base import Network
from tellapart.models.pretrained import Pretrained, Weights, imagenet_classes
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.progress import Event, Progress

PREFIX = "timm:"


class TimmNetwork(Network):
    """A network of timm; its parameters stand under `model.`."""

    def __init__(self, name: str, num_classes: int, in_channels: int) -> None:
        super().__init__(in_channels)
        self.model = _timm().create_model(name.removeprefix(PREFIX), num_classes=num_classes, in_chans=in_channels)
        head = self.model.get_classifier()
        self.head_name = next(path for path, module in self.named_modules() if module is head)

    def embed(self, images: Tensor) -> Tensor:
        """Return the features (N, F) before timm's classifier."""
        features: Tensor = self.model.forward_head(self.model.forward_features(images), pre_logits=True)
        return features


@dataclass(frozen=True)
class TimmWeights(Pretrained):
    """Weights that timm fetches itself."""

    def load(self, progress: Progress) -> Weights:
        """Return the weights by our names; raises `DownloadFailed`."""
        progress.report(Event.DOWNLOAD_START, f"timm fetches the weights of {self.file}, unless it has them.")
        try:
            model = _timm().create_model(self.file, pretrained=True)
        except Exception as error:  # whatever its hub client raises
            raise DownloadFailed(
                f"timm could not fetch the weights of {self.file} ({_first_line(error)}): check the connection, or "
                "give a file of its weights by --weights."
            ) from error
        return self.rename(model.state_dict())


def weights(name: str) -> TimmWeights:
    """Return the published weights of timm:NAME with their preprocess; raises `UnknownModel` or `MissingExtra`."""
    timm, bare = _timm(), name.removeprefix(PREFIX)
    if not timm.is_model(bare):
        hint = did_you_mean(bare, timm.list_models())
        raise UnknownModel(f"timm has no model '{printable(bare)}': see timm.list_models().{hint}")
    facts: Any = timm.get_pretrained_cfg(bare)
    preprocess = PreprocessSettings(
        "crop",
        int(facts.input_size[-1]),
        3,
        tuple(facts.mean),
        tuple(facts.std),
        "bicubic" if facts.interpolation == "bicubic" else "bilinear",
        float(facts.crop_pct or 1.0),
    )
    count = int(facts.num_classes)
    classes = imagenet_classes if count == 1000 else lambda: tuple(f"class {index}" for index in range(count))
    return TimmWeights(bare, preprocess, f"timm, {bare}", rename=_with_prefix, classes=classes)


def _with_prefix(found: Weights) -> Weights:
    return {key if key.startswith("model.") else f"model.{key}": value for key, value in found.items()}


def _timm() -> ModuleType:
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        raise MissingExtra(
            f"A network of timm needs the packages timm and torchvision, and they do not import here: "
            f"{_first_line(error)}. Install both, built for the same torch."
        ) from error
    return timm


def _first_line(error: Exception) -> str:
    return printable((str(error).splitlines() or [type(error).__name__])[0])
