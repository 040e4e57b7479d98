"""The demo command: a first run on a dataset that needs no download."""

from pathlib import Path
from typing import Annotated

import typer

import tellapart
from tellapart.cli.options import ResumeOption
from tellapart.cli.training import print_run
from tellapart.progress import TerminalProgress

app = typer.Typer()


@app.command()
def demo(out: Annotated[Path | None, typer.Option(help="Run directory.")] = None, resume: ResumeOption = False) -> None:
    """Train on scikit-learn's digits dataset (1,797 images).

    The whole pipeline in a minute.
    """
    run = tellapart.train("digits", out=out or Path("runs/digits"), resume=resume, progress=TerminalProgress())
    print_run(run)
    model = run.classifier_file
    print("Next steps:")
    print("  tellapart train FOLDER         train on your own images, one folder per class")
    print(f"  tellapart predict {model} IMAGE...")
