"""Networks of timm, if it is installed."""

import sys

import pytest
import torch
from torch import nn

from tellapart.errors import MissingExtraError, UnknownModelError
from tellapart.models import create, get_entry
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.progress import Progress
from tellapart.recipe.recipe import Recipe
from tellapart.training.initialization import initial_preprocess, initialize_network
from weight_files import randomize_statistics, torch_bytes, write

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def timm(torchvision_models):
    return pytest.importorskip("timm", reason="timm is not installed", exc_type=(ImportError, RuntimeError))


def test_a_timm_network_has_its_features_head_and_stages(timm):
    torch.manual_seed(0)
    network = create("timm:resnet18", 5).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features, logits = network.embed(images), network(images)
        assert (features.shape, logits.shape) == ((2, 512), (2, 5))
        torch.testing.assert_close(network.head(features), logits)
        torch.testing.assert_close(network.model(images), logits)
    assert isinstance(network.head, nn.Linear)
    head = {id(parameter) for parameter in network.head.parameters()}
    in_stages = [id(parameter) for stage in network.stages() for parameter in stage]
    assert sorted(in_stages) == sorted(id(p) for p in network.parameters() if id(p) not in head)
    assert create("timm:resnet18", 5, 1, head=[16]).eval()(images[:, :1]).shape == (2, 5)


def test_an_unknown_timm_network_raises_an_error_with_the_closest_name(timm):
    with pytest.raises(UnknownModelError) as error:
        create("timm:resnet-18", 5)
    assert "'resnet-18'" in str(error.value)
    assert "'resnet18'" in str(error.value)


def test_preprocessing_equals_the_config_of_timm(timm):
    for name in ("resnet18", "vit_tiny_patch16_224", "inception_v3"):
        config = timm.get_pretrained_cfg(name)
        assert get_entry(f"timm:{name}").pretrained.preprocess == PreprocessSettings(
            resize="crop",
            size=config.input_size[-1],
            channels=3,
            mean=config.mean,
            std=config.std,
            interpolation=config.interpolation,
            crop_share=config.crop_pct,
        )


def test_a_timm_checkpoint_is_loaded_from_a_file(timm, tmp_path):
    torch.manual_seed(0)
    source = timm.create_model("resnet18", num_classes=1000)
    randomize_statistics(source)
    path = write(tmp_path / "timm.pth", torch_bytes(source.state_dict()))
    settings = {"model": "timm:resnet18", "weights": str(path), "pretrained": True, "size": 64, "resize": "squash"}
    recipe = Recipe().with_settings(**settings)
    _, network = initialize_network(recipe, 4, Progress())
    weights = network.model.state_dict()
    assert all(
        torch.equal(weights[key], value) for key, value in source.state_dict().items() if not key.startswith("fc.")
    )
    assert weights["fc.weight"].shape == (4, 512)
    preprocess, config = initial_preprocess(recipe), timm.get_pretrained_cfg("resnet18")
    assert (preprocess.mean, preprocess.interpolation) == (config.mean, config.interpolation)


def test_without_timm_an_error_is_raised(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError) as error:
        create("timm:resnet18", 5)
    assert error.value.code == "missing_extra"
    assert "timm" in str(error.value)
