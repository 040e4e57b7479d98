"""The speed of fine-tuning and of frozen features on a CPU, beside the same network computed layer by layer by PyTorch.

    python benchmarks/fine_tuning_speed.py                    # about 4 minutes
    python benchmarks/fine_tuning_speed.py --model mobilenet_v3_small --json

Both variants run alternately in this process, on the same images. The plain variant has the layers of `torch.nn` in
float32 and channels last, its fastest plan. Ours has the execution plan that training chooses, folds BatchNorm, whose
statistics are frozen, into the convolutions, and computes the gradients of depthwise convolutions with fast kernels.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import nn
from torch.nn import functional as F

from tellapart.models import get_entry
from tellapart.models.base import Network
from tellapart.models.depthwise import DepthwiseConv2d
from tellapart.models.norm_folding import folded_norms
from tellapart.models.registry import create
from tellapart.recipe.recipe import Recipe
from tellapart.system import cpu_name
from tellapart.training.execution.glibc_malloc import retain_freed_memory
from tellapart.training.execution.plan import ExecutionPlan
from tellapart.training.optimizers import make_optimizer

CLASSES, SECONDS = 10, 3.0


@contextmanager
def plain_layers() -> Iterator[None]:
    """Inside the context, depthwise convolutions are computed as by `nn.Conv2d`."""
    with mock.patch.object(DepthwiseConv2d, "_conv_forward", nn.Conv2d._conv_forward):
        yield


def images_per_second(work: Callable[[], None], images: int) -> float:
    """Return the images per second of calls of `work`, by the median call in a few seconds."""
    work()
    seconds: list[float] = []
    while sum(seconds) < SECONDS or len(seconds) < 5:
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return images / statistics.median(seconds)


def measure(name: str, batch: int, repeats: int) -> dict[str, object]:
    """Return images per second of both variants, and their ratios, for training steps and for frozen features."""
    torch.manual_seed(0)
    size = get_entry(name).size
    recipe = Recipe().with_settings(model=name, pretrained=False, optimizer="adamw", learning_rate=1e-3)
    recipe = recipe.with_settings(weight_decay=0.01)
    network: Network = create(name, CLASSES, 3, **get_entry(name).arguments(size, True)).eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(network, recipe, fine_tuning=True)
    images = torch.rand(batch, 3, size, size).to(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (batch,))
    plan = ExecutionPlan.of(recipe)

    def step(bfloat16: bool) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = network(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    @torch.no_grad()
    def features(bfloat16: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            network.embed(images)

    found: dict[str, object] = {"model": name, "processor": cpu_name(), "plan": str(plan), "batch": batch}
    for title, work in (("training step", step), ("frozen features", features)):
        rates: dict[str, list[float]] = {"plain": [], "ours": []}
        for _ in range(repeats):
            with plain_layers():
                rates["plain"].append(images_per_second(lambda work=work: work(False), batch))  # type: ignore[misc]
            with folded_norms(network):
                rates["ours"].append(
                    images_per_second(lambda work=work: work(plan.bfloat16), batch)  # type: ignore[misc]
                )
        ratios = [ours / plain for ours, plain in zip(rates["ours"], rates["plain"], strict=True)]
        found[title] = {
            **{variant: round(statistics.median(values), 1) for variant, values in rates.items()},
            "ratio": round(statistics.median(ratios), 2),
            "lowest": round(min(ratios), 2),
            "highest": round(max(ratios), 2),
        }
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with retain_freed_memory():
        found = measure(options.model, options.batch, options.repeats)
    print(json.dumps(found, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
