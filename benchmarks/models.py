"""Training and inference speed of every network at its own size, as the rows of docs/models.md.

    python benchmarks/models.py                      # all: about 20 minutes on two cores
    python benchmarks/models.py resnet18 resnet50

Images per second: the median of at least 5 repeats (3 for networks of over 10 GFLOPs) after one that warms up.
Training is forward, backward and AdamW, in bfloat16 where the default recipe chooses it; inference is float32.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from tellapart.models import MODELS, create
from tellapart.models.base import Network
from tellapart.models.published_results import PUBLISHED
from tellapart.training.execution.plan import has_bfloat16


def speed(step: Callable[[], object], images: int, repeats: int) -> tuple[float, float]:
    """Return images per second: the median, and half the distance between the quartiles as a share of it."""
    step()
    rates = []
    for _ in range(repeats):
        began = time.perf_counter()
        step()
        rates.append(images / (time.perf_counter() - began))
    low, middle, high = statistics.quantiles(rates, n=4)
    return middle, (high - low) / 2 / middle


def training_step(network: Network, images: torch.Tensor, labels: torch.Tensor, bfloat16: bool) -> Callable[[], None]:
    """Return a function that makes one step."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            outputs = network.training_outputs(images)
        loss = torch.stack([weight * F.cross_entropy(part.float(), labels) for weight, part in outputs]).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def measure(name: str) -> str:
    """Return the row of a network."""
    entry, facts = MODELS[name], PUBLISHED[name]
    gflops = 2 * facts.macs / 1e9
    batch = 64 if gflops < 1 else 16 if gflops < 10 else 8 if gflops < 30 else 4
    repeats = 5 if gflops < 10 else 3
    torch.manual_seed(0)
    network = create(name, entry.classes, entry.channels, **entry.arguments(entry.size))
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(batch, entry.channels, entry.size, entry.size).to(memory_format=torch.channels_last)
    labels = torch.arange(batch) % entry.classes
    with torch.inference_mode():
        network.eval()
        predicting, spread = speed(lambda: network(images), batch, repeats)
    step = training_step(network.train(), images, labels, entry.fast_bfloat16 and has_bfloat16())
    training, training_spread = speed(step, batch, repeats)
    top1 = f"{facts.top1:.1f}% ({facts.dataset})" if facts.top1 is not None else ""
    return (
        f"| `{name}` | {facts.year} | {entry.size} | {facts.parameters / 1e6:.2f} | {gflops:.3g} | {top1} | "
        f"{figure(training)} ± {training_spread:.0%} | {figure(predicting)} ± {spread:.0%} |"
    )


def figure(rate: float) -> str:
    """Return a rate with three digits, and never as a power of ten."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def main() -> None:
    """Measure the networks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", default=list(MODELS))
    print("| network | year | size | parameters, M | GFLOPs | published top-1 | training | inference |")
    print("|---|---|---|---|---|---|---|---|")
    for name in parser.parse_args().names or MODELS:
        print(measure(name), flush=True)


if __name__ == "__main__":
    main()
