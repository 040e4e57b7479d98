"""Explanations: heat maps of a class over an image, and the nearest training images.

A heat map shows which positions raised the logit of one class, at the last layer with spatial positions. It does not
prove what the network "looks at": it is coarse (the layer has a few cells per side), it is scaled for each image, and
some methods give similar maps for random weights (Adebayo et al. 2018, "Sanity checks for saliency maps", a test that
Grad-CAM passes). Strided convolutions also shift the centers of the cells, so positions are accurate to about half a
cell.

Letters: N images, S the network's input size, C channels and M the side of the layer's maps, F features.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import numpy as np
import torch
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from tellapart.classifier.classifier import Classifier
from tellapart.data.batching import BATCH_SIZE, PixelArray, batch_slices, pixel_batches
from tellapart.data.image import ImageArray
from tellapart.errors import ExplanationError, did_you_mean
from tellapart.models.base import Network
from tellapart.preprocess.settings import PreprocessSettings, placement
from tellapart.preprocess.torch_preprocess import Preprocess

Method = Literal["grad_cam", "layer_cam"]
_COLORMAP = "inferno"  # lightness increases evenly with the value, also with color vision deficiency
_OPACITY = 0.6  # at the maximum
_QUERY_BLOCK, _FEATURE_BLOCK = 512, 4096  # rows compared at a time: 8 MB of similarities


def heat_maps(
    classifier: Classifier, pixels: PixelArray, classes: NDArray[np.integer], method: Method = "layer_cam"
) -> NDArray[np.float32]:
    """Return heat maps (N, S, S) in 0..1: the evidence for a class by position.

    pixels: resized images (N, S, S, 3). classes: (N,) index of the class to explain for each image, predicted or not.
    method: `grad_cam` weights each channel by the mean of its gradient (Selvaraju et al. 2017, "Grad-CAM", equations 1
    and 2); `layer_cam` weights each position of each channel by its own gradient, if positive (Jiang et al. 2021,
    "LayerCAM", section III). Gradients are of the logit. The map is resized bilinearly and scaled to a maximum of 1;
    it is 0 throughout if there is no evidence for the class.
    Raises `ExplanationError` for a network without feature maps, or for arguments of the wrong shape or values.
    """
    _check(classifier, pixels, classes, method)
    network, size = classifier.network, classifier.preprocess.size
    device = next(network.parameters()).device
    preprocess = Preprocess(classifier.preprocess).to(device)
    maps = np.zeros((len(pixels), size, size), np.float32)
    layer: nn.Module | None = None
    with _evaluation_mode(network):
        for rows, batch in pixel_batches(pixels, batch_slices(len(pixels), BATCH_SIZE)):
            images = preprocess(torch.from_numpy(batch).to(device))  # n C S S
            layer = layer or map_layer(network, images[:1])
            activations, gradients = _gradients(network, layer, images, torch.from_numpy(classes[rows]).to(device))
            weights = gradients.mean(dim=(2, 3), keepdim=True) if method == "grad_cam" else gradients.relu()
            heat = (weights * activations).sum(dim=1, keepdim=True).relu()  # n 1 M M
            maps[rows] = _resize_and_scale(heat, size)
    return maps


def map_layer(network: Network, images: Tensor) -> nn.Module:
    """Return the last module before the head with an output (n, C, M, M), M > 1, for images (n, C, S, S).

    A module inside a block is one branch of it, so it counts only if the block's output is a map too. Raises
    `ExplanationError` if there is no such module, or if tokens follow it.
    """
    is_map: dict[str, bool] = {}  # by module name, in the order in which the calls end

    def record(name: str, module: nn.Module, output: Any) -> None:
        if not isinstance(output, Tensor) or isinstance(module, nn.AdaptiveAvgPool2d):
            return  # adaptive pooling repeats the cells of a smaller map
        if _has_positions(output):
            is_map.pop(name, None)
            is_map[name] = _is_map(output)
        elif not isinstance(module, nn.Sequential):
            for inner in [other for other in is_map if other.startswith(f"{name}.")]:
                del is_map[inner]

    hooks = [
        module.register_forward_hook(lambda module, _, output, name=name: record(name, module, output))
        for name, module in network.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    last = next(reversed(is_map), None)
    if last is None or not is_map[last]:
        raise ExplanationError(
            f"{type(network).__name__} has no feature map before its head: heat maps require a convolutional network "
            "whose maps have at least 2 x 2 cells; use larger images or another network."
        )
    return network.get_submodule(last)


def nearest_neighbors(
    queries: NDArray[np.floating], features: NDArray[np.floating], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the rows of features (N, F) nearest to each query (n, F), and their cosine similarities, (n, count) each.

    The most similar row comes first; a row of zeros has a similarity of 0. The extra memory is at most about 100 MB.
    Raises `ExplanationError` for arrays of the wrong shape.
    """
    if queries.ndim != 2 or features.ndim != 2 or queries.shape[1] != features.shape[1]:
        raise ExplanationError(
            f"Expected queries (n, F) and features (N, F) of the same width, got {queries.shape} and {features.shape}."
        )
    if not 1 <= count <= len(features):
        raise ExplanationError(f"Expected a count from 1 to the number of rows, {len(features)}, got {count}.")
    indices, similarities = np.zeros((len(queries), count), np.int64), np.zeros((len(queries), count), np.float32)
    for rows in batch_slices(len(queries), _QUERY_BLOCK):
        indices[rows], similarities[rows] = _nearest_to(_normalize(queries[rows]), features, count)
    return indices, similarities


def overlay(image: ImageArray, heat: NDArray[np.float32]) -> ImageArray:
    """Return an image (H, W, 3) in grayscale with heat in 0..1 over it; more heat has more color.

    heat: (H, W), or another size, which is stretched to it. A heat map of the square input fits the resized image; for
    the original image, transform it with `on_original` first.
    """
    height, width = image.shape[:2]
    stretched = _stretch(heat, height, width).clip(0, 1)
    colors = np.asarray(colormaps[_COLORMAP](stretched, bytes=True))[..., :3]  # H W 3
    opacity = _OPACITY * stretched[..., None]
    gray = np.asarray(Image.fromarray(image).convert("L"))[..., None]  # its own colors would look like heat
    blended: ImageArray = (gray * (1 - opacity) + colors * opacity).round().astype(np.uint8)
    return blended


def on_original(
    heat: NDArray[np.float32], height: int, width: int, settings: PreprocessSettings
) -> NDArray[np.float32]:
    """Return the heat map (S, S) of a resized image at its position in the original image, (H, W).

    It reverses the squash, is 0 outside the crop, and has no padding.
    """
    source, target = placement(settings, height, width)
    original = np.zeros((height, width), np.float32)
    original[source.rows, source.columns] = _stretch(heat[target.rows, target.columns], source.height, source.width)
    return original


def _check(classifier: Classifier, pixels: PixelArray, classes: NDArray[np.integer], method: str) -> None:
    size, count = classifier.preprocess.size, len(classifier.classes)
    if method not in get_args(Method):
        hint = did_you_mean(method, get_args(Method))
        raise ExplanationError(f"Expected a method of {', '.join(get_args(Method))}, got '{method}'.{hint}")
    if pixels.shape[1:] != (size, size, 3):
        raise ExplanationError(f"Expected resized images (N, {size}, {size}, 3), got {pixels.shape}.")
    if classes.shape != (len(pixels),) or not np.issubdtype(classes.dtype, np.integer):
        raise ExplanationError(
            f"Expected integer classes of shape ({len(pixels)},), got {classes.dtype} of {classes.shape}."
        )
    if len(classes) and not 0 <= classes.min() <= classes.max() < count:
        raise ExplanationError(f"Expected classes from 0 to {count - 1}, got {classes.min()} to {classes.max()}.")


def _gradients(network: Network, layer: nn.Module, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maps of a layer (n, C, M, M), and the gradients of each image's class logit with respect to them."""
    maps = images

    def detach_maps(_: nn.Module, __: Any, output: Tensor) -> Tensor | None:
        nonlocal maps
        if not _is_map(output):  # the module is called for a smaller output too
            return None
        torch.set_grad_enabled(True)  # only from here on: earlier layers need no memory for the backward pass
        # A copy, as a later layer may change it in place (its activation then counts as part of this layer).
        maps = output.detach().requires_grad_().clone()
        return maps

    hook = layer.register_forward_hook(detach_maps)
    try:
        with torch.no_grad():  # restores the mode that the hook sets
            logits = network(images)
    finally:
        hook.remove()
    class_logits = logits.gather(1, classes.long()[:, None]).sum()
    (gradients,) = torch.autograd.grad(class_logits, maps)
    return maps.detach().float(), gradients.float()


def _has_positions(output: Tensor) -> bool:
    """Whether an output is a map, channels last or not, or a sequence of tokens (n, T, F)."""
    if output.ndim == 4:
        return min(output.shape[2:]) > 1
    return output.ndim == 3 and output.shape[1] > 1


def _is_map(output: Tensor) -> bool:
    return output.ndim == 4 and output.shape[2] == output.shape[3] > 1  # the images and so their maps are square


def _resize_and_scale(heat: Tensor, size: int) -> NDArray[np.float32]:
    resized = F.interpolate(heat, size=(size, size), mode="bilinear")[:, 0]  # n S S
    maximum = resized.amax(dim=(1, 2), keepdim=True)
    array: NDArray[np.float32] = (resized / maximum.clamp_min(torch.finfo(resized.dtype).tiny)).cpu().numpy()
    return array


@contextmanager
def _evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Set a network to evaluation mode, and restore the mode of each module afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _nearest_to(
    queries: NDArray[np.float32], features: NDArray[np.floating], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    best = np.full((len(queries), count), -np.inf, np.float32)
    rows = np.zeros((len(queries), count), np.int64)
    for block in batch_slices(len(features), _FEATURE_BLOCK):
        similarities = queries @ _normalize(features[block]).T  # n b
        numbers = np.broadcast_to(np.arange(block.start, block.stop), similarities.shape)
        best, rows = _select_largest(np.hstack([best, similarities]), np.hstack([rows, numbers]), count)
    return rows, best


def _select_largest(
    values: NDArray[np.float32], numbers: NDArray[np.int64], count: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the `count` largest values of each row (n, count) in descending order, with their numbers."""
    largest = np.argpartition(-values, count - 1, axis=1)[:, :count]
    values, numbers = np.take_along_axis(values, largest, 1), np.take_along_axis(numbers, largest, 1)
    order = np.lexsort((numbers, -values), axis=1)  # equal values in the order of their numbers
    return np.take_along_axis(values, order, 1), np.take_along_axis(numbers, order, 1)


def _normalize(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    floats = rows.astype(np.float32)
    norms = np.linalg.norm(floats, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(floats, norms, out=np.zeros_like(floats), where=norms > 0)
    return unit


def _stretch(heat: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    if heat.shape == (height, width):
        return heat
    batch = torch.from_numpy(np.ascontiguousarray(heat))[None, None]  # 1 1 H W
    stretched = F.interpolate(batch, size=(height, width), mode="bilinear", antialias=True)
    array: NDArray[np.float32] = stretched[0, 0].numpy()
    return array
