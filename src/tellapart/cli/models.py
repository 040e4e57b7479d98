"""Commands about networks and this machine: models, doctor, summary."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

import tellapart
from tellapart.cli.console import print_json, terminal
from tellapart.cli.options import Json

if TYPE_CHECKING:
    from tellapart.models.published_results import PublishedResult

app = typer.Typer()


@app.command()
def models(json_output: Json = False) -> None:
    """List the networks: input size, parameters, GFLOPs, weights, published accuracy."""
    from tellapart.models import MODELS
    from tellapart.models.published_results import PUBLISHED

    pretrained = {name: entry.pretrained for name, entry in MODELS.items() if entry.pretrained}
    weights = {name: "available" if each.is_available else "download" for name, each in pretrained.items()}
    sizes = {name: entry.size for name, entry in MODELS.items()}
    if json_output:
        print_json(
            [
                {"name": name, "size": sizes[name], "flops": 2 * result.macs, "weights": weights.get(name)}
                | vars(result)
                for name, result in PUBLISHED.items()
            ]
        )
    else:
        print_models(PUBLISHED, sizes, weights)


@app.command()
def doctor(json_output: Json = False) -> None:
    """Check the environment, and report what slows training down and how to fix it."""
    from tellapart.doctor import diagnose

    diagnosis = diagnose()
    if json_output:
        print_json(diagnosis.to_json())
        return
    console = terminal()
    for section, values in diagnosis.environment.items():
        console.print(section.capitalize(), style="bold")
        for name, value in values.items():
            console.print(f"  {name:<14} {value}", markup=False, soft_wrap=True)
    for sentence in diagnosis.advice or ["No problems found."]:
        console.print(f"* {sentence}", markup=False, soft_wrap=True)


@app.command()
def summary(
    model: Annotated[
        str, typer.Argument(help="Network, network definition (.toml), classifier file or run directory.")
    ],
    size: Annotated[
        int | None,
        typer.Option(min=1, max=4096, help="Side length of the images in pixels; the network's own by default."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=65_536, help="Batch size for the memory estimate.")] = 32,
    classes: Annotated[int | None, typer.Option(min=1, max=1_000_000, help="Number of classes.")] = None,
    channels: Annotated[int | None, typer.Option(help="1 for greyscale images, 3 for colour.")] = None,
    activation_checkpointing: Annotated[
        bool, typer.Option("--activation-checkpointing", help="Estimate the memory with activation checkpointing.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Show a network's layers and the memory required to train it."""
    result = tellapart.summary(
        model,
        size=size,
        batch=batch,
        classes=classes,
        channels=channels,
        activation_checkpointing=activation_checkpointing,
    )
    if json_output:
        print_json(result.to_json())
    else:
        print(result)


def print_models(published: "dict[str, PublishedResult]", sizes: dict[str, int], weights: dict[str, str]) -> None:
    """Print the networks with their published results."""
    table = Table(box=None, pad_edge=False)
    table.add_column("name", no_wrap=True)
    for column in ("year", "size", "parameters", "GFLOPs", "weights", "top-1"):
        table.add_column(column, justify="right")
    table.add_column("dataset")
    for name, result in published.items():
        table.add_row(
            name,
            str(result.year),
            str(sizes[name]),
            f"{result.parameters / 1e6:.2f} M",
            f"{2 * result.macs / 1e9:.3g}",
            weights.get(name, ""),
            "" if result.top1 is None else f"{result.top1:.1f}%",
            result.dataset,
        )
    console = terminal()
    console.print(table)
    console.print(
        "GFLOPs: for one image of that size; a multiply-add counts as two. Weights: available here, or downloaded on "
        "first use. Top-1: as published; --json has the sources.",
        markup=False,
    )
