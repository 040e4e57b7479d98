"""Commands that tell of networks and of this machine: models, summary, doctor."""

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

import tellapart
from tellapart.cli.console import plain, terminal
from tellapart.cli.options import Json

if TYPE_CHECKING:
    from tellapart.models.published import Facts
    from tellapart.models.summary import Summary

app = typer.Typer()


@app.command()
def models(json_output: Json = False) -> None:
    """List the networks: size, cost, weights, published accuracy."""
    from tellapart.models import MODELS
    from tellapart.models.published import FACTS

    published = {name: entry.pretrained for name, entry in MODELS.items() if entry.pretrained}
    weights = {name: "here" if found.is_here else "to fetch" for name, found in published.items()}
    sizes = {name: entry.size for name, entry in MODELS.items()}
    if json_output:
        rows = [
            {"name": name, "size": sizes[name], "flops": 2 * fact.macs, "weights": weights.get(name)} | vars(fact)
            for name, fact in FACTS.items()
        ]
        print(json.dumps(rows, indent=2))
    else:
        print_models(FACTS, sizes, weights)


@app.command()
def doctor(json_output: Json = False) -> None:
    """Tell what it runs on here, what is slow, and what to do."""
    from tellapart.doctor import diagnose

    found = diagnose()
    if json_output:
        print(json.dumps(found.to_json(), indent=2))
        return
    console = terminal()
    for section, facts in found.facts.items():
        console.print(section.capitalize(), style="bold")
        for name, value in facts.items():
            console.print(f"  {name:<14} {value}", markup=False, soft_wrap=True)
    for sentence in found.advice or ["Nothing here needs to be mended."]:
        console.print(f"* {sentence}", markup=False, soft_wrap=True)


@app.command()
def summary(
    model: Annotated[str, typer.Argument(help="Network, file of layers (.toml), classifier file or run folder.")],
    size: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Side of the pictures; the network's own if not given.")
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, max=65_536, help="Pictures in a batch, for the memory that training takes.")
    ] = 32,
    classes: Annotated[int | None, typer.Option(min=1, max=1_000_000, help="Number of classes.")] = None,
    channels: Annotated[int | None, typer.Option(help="1 for grey pictures, 3 for colour.")] = None,
    checkpoint_activations: Annotated[
        bool, typer.Option("--checkpoint-activations", help="As in training: less memory, more time.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Show a network's layers, and the memory to train it."""
    found = tellapart.describe(
        model,
        size=size,
        batch=batch,
        classes=classes,
        channels=channels,
        checkpoint_activations=checkpoint_activations,
    )
    if json_output:
        print(json.dumps(found.to_json(), indent=2))
    else:
        print_summary(found)


def print_models(facts: "dict[str, Facts]", sizes: dict[str, int], weights: dict[str, str]) -> None:
    """Print the networks with their facts."""
    table = Table(box=None, pad_edge=False)
    table.add_column("name", no_wrap=True)
    for column in ("year", "size", "parameters", "GFLOPs", "weights", "top-1"):
        table.add_column(column, justify="right")
    table.add_column("on")
    for name, fact in facts.items():
        published = "" if fact.top1 is None else f"{fact.top1:.1f} %"
        table.add_row(
            name,
            str(fact.year),
            str(sizes[name]),
            f"{fact.parameters / 1e6:.2f} M",
            f"{2 * fact.macs / 1e9:.3g}",
            weights.get(name, ""),
            published,
            fact.dataset,
        )
    console = terminal()
    console.print(table)
    console.print(
        "GFLOPs: of one picture at that size, two for each multiplication and addition. Weights: published ones, here "
        "or to be fetched. Top-1: as published (--json has the sources).",
        markup=False,
    )


def print_summary(summary: "Summary") -> None:
    """Print a network's layers, and what it takes to train it."""
    table = Table(box=None, pad_edge=False)
    table.add_column("layer", overflow="fold")
    table.add_column("kind")
    for column in ("output", "parameters", "MACs"):
        table.add_column(column, justify="right")
    for row in summary.layers:
        note = " (training only)" if row.training_only else ""
        shape = " x ".join(map(str, row.shape))
        table.add_row(plain(row.name), row.kind + note, shape, f"{row.parameters:,}", f"{row.macs:,}")
    console = terminal()
    console.print(table)
    console.print(
        f"{summary.model}: {summary.parameters:,} parameters, {summary.macs / 1e9:.3g} GMACs "
        f"({2 * summary.macs / 1e9:.3g} GFLOPs) for a picture of {summary.channels} x {summary.size} x {summary.size}, "
        f"{summary.classes} classes",
        markup=False,
    )
    serving = sum(row.parameters for row in summary.layers if row.training_only)
    if serving:
        console.print(f"{serving:,} of the parameters are in heads that serve training alone", markup=False)
    parts = ", ".join(f"{name} {size / 2**20:,.0f}" for name, size in summary.memory.items() if name != "total")
    total = summary.memory["total"] / 2**20
    console.print(f"Memory to train {summary.batch} pictures at a time: {total:,.0f} MiB ({parts})", markup=False)
