"""Networks and pretrained weights of the package timm, by names such as timm:resnet18, if it is installed."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import Tensor

from tellapart.errors import DownloadError, MissingExtraError, UnknownModelError, did_you_mean, first_line, printable
from tellapart.models.base import Network
from tellapart.models.pretrained import PretrainedWeights, StateDict, imagenet_classes
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.progress import Event, Progress
from tellapart.recipe.model_names import TIMM_PREFIX


class TimmNetwork(Network):
    """A network of timm; its parameter names have the prefix `model.`."""

    def __init__(self, name: str, num_classes: int, in_channels: int) -> None:
        super().__init__(in_channels)
        self.model = _import_timm().create_model(
            name.removeprefix(TIMM_PREFIX), num_classes=num_classes, in_chans=in_channels
        )
        head = self.model.get_classifier()
        self.head_name = next(path for path, module in self.named_modules() if module is head)

    def embed(self, images: Tensor) -> Tensor:
        """Return the features (N, F) before timm's classifier."""
        features: Tensor = self.model.forward_head(self.model.forward_features(images), pre_logits=True)
        return features


@dataclass(frozen=True)
class TimmWeights(PretrainedWeights):
    """Weights that timm downloads itself."""

    def load(self, progress: Progress) -> StateDict:
        """Return the weights by our names; raises `DownloadError`."""
        progress.report(
            Event.DOWNLOAD_START, f"timm downloads the weights of {self.file}, unless they are in its cache."
        )
        try:
            model = _import_timm().create_model(self.file, pretrained=True)
        except Exception as error:  # its hub client can raise any exception
            raise DownloadError(
                f"timm could not download the weights of {self.file} ({first_line(error)}): check the connection, or "
                "pass a weights file with --weights."
            ) from error
        return self.rename(model.state_dict())


def weights(name: str) -> TimmWeights:
    """Return the pretrained weights of timm:NAME; raises `UnknownModelError` or `MissingExtraError`."""
    timm, bare = _import_timm(), name.removeprefix(TIMM_PREFIX)
    if not timm.is_model(bare):
        hint = did_you_mean(bare, timm.list_models())
        raise UnknownModelError(
            f"Unknown timm model '{printable(bare)}': expected a name that timm.list_models() returns.{hint}"
        )
    config: Any = timm.get_pretrained_cfg(bare)
    preprocess = PreprocessSettings(
        resize="crop",
        size=int(config.input_size[-1]),
        channels=3,
        mean=tuple(config.mean),
        std=tuple(config.std),
        interpolation="bicubic" if config.interpolation == "bicubic" else "bilinear",
        crop_share=float(config.crop_pct or 1.0),
    )
    count = int(config.num_classes)
    classes = imagenet_classes if count == 1000 else lambda: tuple(f"class {index}" for index in range(count))
    return TimmWeights(bare, preprocess, f"timm, {bare}", rename=_add_prefix, classes=classes)


def _add_prefix(weights: StateDict) -> StateDict:
    return {key if key.startswith("model.") else f"model.{key}": value for key, value in weights.items()}


def _import_timm() -> ModuleType:
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        raise MissingExtraError(
            f"A timm network requires the packages timm and torchvision, which cannot be imported "
            f"({first_line(error)}): install both, built for the same version of torch."
        ) from error
    return timm
