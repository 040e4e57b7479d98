"""Why this class: heat maps over a picture, and the training pictures most like it.

A heat map says which places raised the logit of one class, as seen by the last layer that still has places. It is no
proof of what the network "looks at": it is coarse (that layer has a few cells a side), it is scaled for each picture,
and some methods give much the same map for a network with random weights (Adebayo et al. 2018, "Sanity checks for
saliency maps", which Grad-CAM passes). Strided convolutions also move the centres of the cells, so that places are
right to about half a cell.

Letters: N pictures, S the network's input size, C channels and M the side of the layer's maps, F features.
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
from tellapart.data.batching import BATCH, PixelTable, blocks, pixel_batches
from tellapart.data.image import Picture
from tellapart.errors import CannotExplain, did_you_mean
from tellapart.models.base import Network
from tellapart.preprocess.settings import PreprocessSettings, placement
from tellapart.preprocess.torch_resize import Preprocess

Method = Literal["grad_cam", "layer_cam"]
_COLOURS = "inferno"  # brightness rises evenly with the value, and it reads without colour vision
_OPACITY = 0.6  # of the hottest place
_QUERIES, _FEATURES = 512, 4096  # rows compared at once: 8 MB of similarities


def heat_maps(
    classifier: Classifier, pixels: PixelTable, classes: NDArray[np.integer], method: Method = "layer_cam"
) -> NDArray[np.float32]:
    """Return heat maps (N, S, S) in 0..1: where each picture speaks for a class.

    pixels: resized pictures (N, S, S, 3). classes: (N,) index of the class to explain for each, predicted or not.
    method: `grad_cam` weighs each channel by the mean of its gradient (Selvaraju et al. 2017, "Grad-CAM", equations 1
    and 2); `layer_cam` weighs each place of each channel by its own gradient, where that is positive (Jiang et al.
    2021, "LayerCAM", section III). Gradients are those of the logit. The map is enlarged bilinearly, and its
    hottest place is 1; where nothing speaks for the class it is 0 throughout.
    Raises `CannotExplain` for a network without maps, or for arguments that do not fit.
    """
    _check(classifier, pixels, classes, method)
    network, size = classifier.network, classifier.preprocess.size
    device = next(network.parameters()).device
    preprocess = Preprocess(classifier.preprocess).to(device)
    maps = np.zeros((len(pixels), size, size), np.float32)
    layer: nn.Module | None = None
    with _evaluating(network):
        for places, batch in pixel_batches(pixels, blocks(len(pixels), BATCH)):
            images = preprocess(torch.from_numpy(batch).to(device))  # n C S S
            layer = layer or map_layer(network, images[:1])
            activations, gradients = _gradients(network, layer, images, torch.from_numpy(classes[places]).to(device))
            weights = gradients.mean(dim=(2, 3), keepdim=True) if method == "grad_cam" else gradients.relu()
            heat = (weights * activations).sum(dim=1, keepdim=True).relu()  # n 1 M M
            maps[places] = _scaled(heat, size)
    return maps


def map_layer(network: Network, images: Tensor) -> nn.Module:
    """Return the last module before the head whose output for images (n, C, S, S) has places: (n, C, M, M), M > 1.

    A module inside a block stands for a branch of it, not for all that the block knows: it counts only where the
    block ends in a map too. Raises `CannotExplain` if there is none, or if what follows it are tokens.
    """
    found: dict[str, bool] = {}  # name -> whether its output is a map, in the order of the calls' ends

    def note(name: str, module: nn.Module, output: Any) -> None:
        if not isinstance(output, Tensor) or isinstance(module, nn.AdaptiveAvgPool2d):
            return  # adaptive pooling repeats the cells of a small map, and makes no new ones
        if _has_places(output):
            found.pop(name, None)
            found[name] = _is_map(output)
        elif not isinstance(module, nn.Sequential):
            for inner in [other for other in found if other.startswith(f"{name}.")]:
                del found[inner]

    hooks = [
        module.register_forward_hook(lambda module, _, output, name=name: note(name, module, output))
        for name, module in network.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    last = next(reversed(found), None)
    if last is None or not found[last]:
        raise CannotExplain(
            f"{type(network).__name__} has no map of places before its head, from which to draw heat: expected a "
            "convolutional network whose maps keep at least 2 x 2 cells; use larger pictures, or another network."
        )
    return network.get_submodule(last)


def nearest(
    queries: NDArray[np.floating], features: NDArray[np.floating], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the rows of features (N, F) most like each query (n, F), and their cosine similarities, both (n, count).

    The most similar come first; a row of zeros is like nothing (0). Memory beyond the inputs stays under some 100 MB.
    Raises `CannotExplain` for shapes that do not fit.
    """
    if queries.ndim != 2 or features.ndim != 2 or queries.shape[1] != features.shape[1]:
        raise CannotExplain(f"Expected two arrays (rows, F) of the same F, not {queries.shape} and {features.shape}.")
    if not 1 <= count <= len(features):
        raise CannotExplain(f"Expected a count from 1 to the {len(features)} rows there are, not {count}.")
    indices, similarities = np.zeros((len(queries), count), np.int64), np.zeros((len(queries), count), np.float32)
    for rows in blocks(len(queries), _QUERIES):
        indices[rows], similarities[rows] = _nearest_to(_unit(queries[rows]), features, count)
    return indices, similarities


def overlay(picture: Picture, heat: NDArray[np.float32]) -> Picture:
    """Return a picture (H, W, 3) in grey with heat in 0..1 laid over all of it: the hotter, the more colour.

    heat: (H, W), or smaller or larger and then stretched to it. A map of the network's square fits the resized
    picture; for the original one, bring it there first by `on_original`.
    """
    height, width = picture.shape[:2]
    stretched = _stretched(heat, height, width).clip(0, 1)
    colours = np.asarray(colormaps[_COLOURS](stretched, bytes=True))[..., :3]  # H W 3
    share = _OPACITY * stretched[..., None]
    grey = np.asarray(Image.fromarray(picture).convert("L"))[..., None]  # its own colours would be taken for heat
    blended: Picture = (grey * (1 - share) + colours * share).round().astype(np.uint8)
    return blended


def on_original(
    heat: NDArray[np.float32], height: int, width: int, settings: PreprocessSettings
) -> NDArray[np.float32]:
    """Return the heat (S, S) of a picture's resized form at its place in the original, (H, W).

    It is stretched where the preprocess squashes, 0 outside of what it crops, and without the margins that it pads.
    """
    source, target = placement(settings, height, width)
    whole = np.zeros((height, width), np.float32)
    whole[source.rows, source.columns] = _stretched(heat[target.rows, target.columns], source.height, source.width)
    return whole


def _check(classifier: Classifier, pixels: PixelTable, classes: NDArray[np.integer], method: str) -> None:
    size, count = classifier.preprocess.size, len(classifier.classes)
    if method not in get_args(Method):
        hint = did_you_mean(method, get_args(Method))
        raise CannotExplain(f"The method must be one of {', '.join(get_args(Method))}, not '{method}'.{hint}")
    if pixels.shape[1:] != (size, size, 3):
        raise CannotExplain(f"Expected resized pictures (N, {size}, {size}, 3), not {pixels.shape}.")
    if classes.shape != (len(pixels),) or not np.issubdtype(classes.dtype, np.integer):
        raise CannotExplain(f"Expected the index of a class for each of {len(pixels)} pictures, not {classes.shape}.")
    if len(classes) and not 0 <= classes.min() <= classes.max() < count:
        raise CannotExplain(f"Expected classes from 0 to {count - 1}, not {classes.min()} to {classes.max()}.")


def _gradients(network: Network, layer: nn.Module, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return a layer's maps (n, C, M, M) and the gradients by them of each picture's logit of its class."""
    maps = images

    def start_here(_: nn.Module, __: Any, output: Tensor) -> Tensor | None:
        nonlocal maps
        if not _is_map(output):  # the same module serves a smaller map too
            return None
        torch.set_grad_enabled(True)  # only from here on: the layers before need no memory for a backward pass
        # A copy, since what follows may change it in place (an activation then counts as part of the layer).
        maps = output.detach().requires_grad_().clone()
        return maps

    hook = layer.register_forward_hook(start_here)
    try:
        with torch.no_grad():  # sets back what the hook sets
            logits = network(images)
    finally:
        hook.remove()
    of_class = logits.gather(1, classes.long()[:, None]).sum()
    (gradients,) = torch.autograd.grad(of_class, maps)
    return maps.detach().float(), gradients.float()


def _has_places(output: Tensor) -> bool:
    """Whether an output is a map, channels last or not, or a row of tokens (n, T, F)."""
    if output.ndim == 4:
        return min(output.shape[2:]) > 1
    return output.ndim == 3 and output.shape[1] > 1


def _is_map(output: Tensor) -> bool:
    return output.ndim == 4 and output.shape[2] == output.shape[3] > 1  # pictures are square, and so are their maps


def _scaled(heat: Tensor, size: int) -> NDArray[np.float32]:
    enlarged = F.interpolate(heat, size=(size, size), mode="bilinear")[:, 0]  # n S S
    highest = enlarged.amax(dim=(1, 2), keepdim=True)
    array: NDArray[np.float32] = (enlarged / highest.clamp_min(torch.finfo(enlarged.dtype).tiny)).cpu().numpy()
    return array


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode, and each of its modules back into its own afterwards."""
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
    for block in blocks(len(features), _FEATURES):
        found = queries @ _unit(features[block]).T  # n b
        numbers = np.broadcast_to(np.arange(block.start, block.stop), found.shape)
        best, rows = _largest(np.hstack([best, found]), np.hstack([rows, numbers]), count)
    return rows, best


def _largest(
    values: NDArray[np.float32], numbers: NDArray[np.int64], count: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the `count` largest of each row (n, count), falling, with their numbers."""
    some = np.argpartition(-values, count - 1, axis=1)[:, :count]
    values, numbers = np.take_along_axis(values, some, 1), np.take_along_axis(numbers, some, 1)
    order = np.lexsort((numbers, -values), axis=1)  # of equals the first row first
    return np.take_along_axis(values, order, 1), np.take_along_axis(numbers, order, 1)


def _unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    floats = rows.astype(np.float32)
    lengths = np.linalg.norm(floats, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(floats, lengths, out=np.zeros_like(floats), where=lengths > 0)
    return unit


def _stretched(heat: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    if heat.shape == (height, width):
        return heat
    batch = torch.from_numpy(np.ascontiguousarray(heat))[None, None]  # 1 1 H W
    stretched = F.interpolate(batch, size=(height, width), mode="bilinear", antialias=True)
    array: NDArray[np.float32] = stretched[0, 0].numpy()
    return array
