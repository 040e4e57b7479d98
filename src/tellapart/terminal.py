"""How results look on a terminal: tables and sentences on stdout, and JSON or CSV for programs."""

import csv
import json
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tellapart.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tellapart.data.audit import Audit
    from tellapart.evaluation.compare import ClassChange, Comparison
    from tellapart.evaluation.label_audit import LabelAudit
    from tellapart.evaluation.more_pictures import MorePictures
    from tellapart.evaluation.on_source import Evaluation
    from tellapart.exporting.export import Exported
    from tellapart.models.facts import Facts
    from tellapart.models.summary import Summary
    from tellapart.prediction import Prediction, Unreadable
    from tellapart.run import Run

_SHOWN = 10  # items of a list on the terminal; --json has all


def print_json(results: "Iterable[Prediction | Unreadable]") -> int:
    """Print one JSON object a line; return how many files cannot be read."""
    failed = 0
    for result in results:
        failed += hasattr(result, "error")
        print(json.dumps(result.to_json()), flush=True)
    return failed


def print_csv(results: "Iterable[Prediction | Unreadable]") -> int:
    """Print a CSV table; return how many files cannot be read."""
    failed = 0
    sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    columns = ["path", "label", "index", "probability", "set", "familiar", "error"]
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    for result in results:
        failed += hasattr(result, "error")
        row = {key: value for key, value in result.to_json().items() if key != "top"}
        writer.writerow(row | {"set": " | ".join(row.get("set") or [])})
    return failed


def print_table(results: "Iterable[Prediction | Unreadable]") -> int:
    """Print a table; return how many files cannot be read."""
    failed = 0
    table = Table("path", "label", box=None, pad_edge=False)
    table.add_column("probability", justify="right")
    table.add_column("others, doubts, or the reason", overflow="fold")
    for result in results:
        failed += hasattr(result, "error")
        table.add_row(*(_plain(printable(cell)) for cell in _cells(result)))
    _console().print(table)
    return failed


def _cells(result: "Prediction | Unreadable") -> list[str]:
    if hasattr(result, "error"):
        return [result.path, "", "", result.error]
    others = [", ".join(f"{label} {probability:.1%}" for label, probability in result.top[1:])]
    if result.set and len(result.set) > 1:
        others.append(f"one of {len(result.set)}: {', '.join(result.set[:_SHOWN])}")
    if result.familiar is False:
        others.append("unfamiliar: unlike the training pictures, it may be none of these")
    return [result.path, result.label, f"{result.probability:.1%}", "; ".join(filter(None, others))]


def print_audit(found: "Audit") -> None:
    """Print what an audit found, long lists cut."""
    facts = found.to_json()
    console = _console()
    console.print(f"{facts['source']}: {facts['pictures']} pictures of {len(facts['classes'])} classes", markup=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("class", overflow="fold")
    table.add_column("readable pictures", justify="right")
    for name, count in facts["classes"].items():
        table.add_row(_plain(name), f"{count:,}")
    console.print(table)
    for kind, label in (("width", "wide"), ("height", "high")):
        spread = facts["sizes"][kind]
        console.print(f"{spread['min']} to {spread['max']} pixels {label}, {spread['median']} in the middle")
    console.print(f"{facts['grey']} of them grey")
    _print_list("Not pictures", [f"{s['path']}: {s['reason']}" for s in facts["skipped"]])
    _print_list("Unreadable", [f"{s['path']}: {s['reason']}" for s in facts["unreadable"]])
    _print_list("Exact duplicates", [" = ".join(group) for group in facts["duplicates"]])
    _print_list("Near duplicates", [" ~ ".join(pair["paths"]) for pair in facts["near_duplicates"]])
    _print_list("One picture under two labels", [" / ".join(group) for group in facts["label_conflicts"]])
    for warning in facts["warnings"]:
        console.print("Note: " + warning, markup=False)


def _print_list(title: str, lines: list[str]) -> None:
    if not lines:
        return
    console = _console()
    console.print(f"{title} ({len(lines)}):", markup=False)
    for line in lines[:_SHOWN]:
        console.print("  " + line, markup=False)
    if len(lines) > _SHOWN:
        console.print(f"  … and {len(lines) - _SHOWN} more (--json lists all)", markup=False)


def print_run(run: "Run") -> None:
    """Print the test figures of a run, and where its files are."""
    console = _console()
    console.print(_figures(run.metrics["test"], "test"))
    console.print(f"Report: {run.report}", markup=False, soft_wrap=True)
    console.print(f"Classifier: {run.directory / 'model.safetensors'}", markup=False, soft_wrap=True)


def _figures(metrics: dict[str, Any], title: str) -> Table:
    """Return the headline figures of one part as a table."""
    names = {"accuracy": "accuracy", "top5_accuracy": "top-5 accuracy", "macro_f1": "macro F1", "log_loss": "log loss"}
    table = Table(box=None, pad_edge=False)
    for column in (f"{title} ({metrics['pictures']} pictures)", "", "95 % interval"):
        table.add_column(column)
    for key, name in names.items():
        if key in metrics:
            figure = metrics[key]
            form = "{:.3f}" if key == "log_loss" else "{:.1%}"
            interval = f"{form.format(figure['low'])} to {form.format(figure['high'])}"
            table.add_row(name, form.format(figure["value"]), interval)
    return table


def print_evaluation(found: "Evaluation") -> None:
    """Print the figures of a classifier on new pictures: headline, the weakest classes, and what to know of them."""
    console = _console()
    console.print(f"{found.model} on {found.source}", markup=False)
    console.print(_figures(found.metrics, found.part))
    shown = {name: figures for name, figures in found.metrics["classes"].items() if figures["pictures"]}
    table = Table(box=None, pad_edge=False)
    table.add_column("class", overflow="fold")
    for column in ("pictures", "recall", "precision"):
        table.add_column(column, justify="right")
    weakest = sorted(shown.items(), key=lambda item: item[1]["recall"]["value"])
    for name, figures in weakest[:_SHOWN]:
        shares = (f"{figures[kind]['value']:.1%}" for kind in ("recall", "precision"))
        table.add_row(_plain(printable(name)), f"{figures['pictures']:,}", *shares)
    console.print(table)
    if len(shown) > _SHOWN:
        console.print(f"These are the weakest {_SHOWN} of {len(shown)} classes (--json has all).", markup=False)
    _print_list("Classes without a picture here", [printable(name) for name in found.lacking])
    _print_left_out(found)


def print_export(found: "Exported") -> None:
    """Print what was written, and how it answers beside the original."""
    console, same = _console(), found.agreement
    console.print(f"{found.path}: {found.size / 1e6:,.1f} MB; golden cases in {found.golden}", markup=False)
    console.print(
        f"On {same.pictures:,} pictures {same.same:.1%} have the same class as by the original; probabilities are at "
        f"most {same.largest:.1e} apart.",
        markup=False,
    )
    if same.accuracy and same.exported_accuracy:
        shares = (f"{x.value:.1%} ({x.low:.1%} to {x.high:.1%})" for x in (same.accuracy, same.exported_accuracy))
        console.print("Right: the original {}, the exported file {}.".format(*shares), markup=False)


def print_comparison(found: "Comparison") -> None:
    """Print what tells two classifiers apart: accuracies, verdict, changed classes, flipped pictures."""
    console = _console()
    table = Table(box=None, pad_edge=False)
    for column in (f"{found.part} ({found.paired.pictures} pictures of {found.source})", "accuracy", "95 % interval"):
        table.add_column(_plain(column), overflow="fold")
    rows = (("A", found.model_a, found.accuracy_a), ("B", found.model_b, found.accuracy_b))
    for letter, name, share in rows:
        table.add_row(_plain(f"{letter}: {name}"), f"{share.value:.1%}", f"{share.low:.1%} to {share.high:.1%}")
    console.print(table)
    console.print(found.verdict, markup=False)
    console.print(
        f"Only A is right on {found.paired.only_a}, only B on {found.paired.only_b} "
        f"(McNemar's exact test: p = {found.paired.p_value:.2g}).",
        markup=False,
    )
    changed = [change for change in found.classes if change.changed]
    _print_list("Classes that changed", [f"{printable(c.name)}: {_change(c)}" for c in changed])
    _print_list(
        "Pictures that A and B name differently",
        [f"{f.path} ({printable(f.label)}): A {printable(f.a)}, B {printable(f.b)}" for f in found.flips],
    )
    _print_left_out(found)


def _change(change: "ClassChange") -> str:
    difference = change.paired.difference
    return (
        f"recall {change.recall_a.value:.1%} to {change.recall_b.value:.1%}, {100 * difference.value:+.1f} points "
        f"({100 * difference.low:+.1f} to {100 * difference.high:+.1f}), {change.paired.pictures} pictures"
    )


def _print_left_out(found: "Evaluation | Comparison") -> None:
    _print_list("Left out", [f"{left['path']}: {left['reason']}" for left in found.excluded])
    for warning in found.warnings:
        _console().print("Note: " + warning, markup=False)


def print_curve(found: "MorePictures") -> None:
    """Print accuracy by the number of training pictures, measured and forecast, and what it means."""
    curve, console = found.curve, _console()
    console.print(f"{found.source}: a linear classifier on {found.features}", markup=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("training pictures", justify="right")
    table.add_column("accuracy", justify="right")
    table.add_column("95 % interval")
    for size, accuracy in zip(curve.sizes, curve.accuracies, strict=True):
        table.add_row(f"{size:,}", f"{accuracy:.1%}", "measured")
    for forecast in (curve.twice, curve.four_times):
        expected = forecast.accuracy
        span = f"{expected.low:.1%} to {expected.high:.1%}, forecast"
        table.add_row(f"{forecast.pictures:,}", f"{expected.value:.1%}", span)
    console.print(table)
    console.print(curve.verdict, markup=False)


def print_labels(found: "LabelAudit", out: "Path | None") -> None:
    """Print the most suspicious labels first, then hard pairs of classes and outliers; and where all rows stand."""
    console, facts = _console(), found.to_json()
    suspects = facts["errors"]
    console.print(
        f"{facts['source']}: {len(suspects)} of {facts['judged']:,} labels are probably wrong "
        f"(judged by {facts['features']})",
        markup=False,
    )
    if suspects:
        table = Table("path", "label", "suggested", box=None, pad_edge=False)
        table.add_column("probability", justify="right")
        for entry in suspects[:_SHOWN]:
            names = (_plain(printable(entry[key])) for key in ("path", "label", "suggested"))
            table.add_row(*names, f"{entry['probability']:.1%}")
        console.print(table)
    if len(suspects) > _SHOWN:
        rest = f"{printable(str(out))} and --json have" if out else "--json has"
        console.print(f"These are the {_SHOWN} most suspicious ({rest} all).", markup=False)
    _print_list(
        "One picture under two labels", [f"{e['path']}: {printable(e['label'])}" for e in facts["contradictions"]]
    )
    _print_list(
        "Classes that are hard to tell apart",
        [
            f"{' / '.join(map(printable, p['classes']))}: {p['undecided']} of {p['pictures']} lie between"
            for p in facts["ambiguous"]
        ],
    )
    _print_list("Unlike all other pictures", [f"{e['path']} ({printable(e['label'])})" for e in facts["outliers"]])
    _print_list("Not judged, alone in their class", [f"{e['path']} ({printable(e['label'])})" for e in facts["alone"]])
    _print_list("Unreadable", [f"{e['path']}: {e['reason']}" for e in facts["unreadable"]])
    if out:
        console.print(
            f"All rows are in {printable(str(out))}: mend its labels, then `tellapart train` takes it.", markup=False
        )


def print_models(facts: "dict[str, Facts]", sizes: dict[str, int], pretrained: set[str]) -> None:
    """Print the networks with their facts."""
    table = Table(box=None, pad_edge=False)
    table.add_column("name", no_wrap=True)
    for column in ("year", "size", "parameters", "GFLOPs", "pretrained", "top-1"):
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
            "yes" if name in pretrained else "",
            published,
            fact.dataset,
        )
    console = _console()
    console.print(table)
    console.print(
        "GFLOPs: of one picture at that size, two for each multiplication and addition. Top-1: as published (--json "
        "has the sources).",
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
        table.add_row(_plain(row.name), row.kind + note, shape, f"{row.parameters:,}", f"{row.macs:,}")
    console = _console()
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


def _console() -> Console:
    # Into a file or a pipe a row stays one line, however long.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 4096)


def _plain(text: str) -> Text:
    return Text(text)
