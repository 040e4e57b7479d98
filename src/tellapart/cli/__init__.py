"""The command line: it parses, calls and prints. What a command needs is imported when it runs, so help is quick."""

import json
import logging
import os
import sys
import warnings
from typing import Annotated

import typer

import tellapart
from tellapart.cli import data, demo, evaluate, models, runs, serving, ship, training
from tellapart.errors import FileAccessError, InterruptedTrainingError, TellapartError, first_line, printable
from tellapart.io.atomic import cache_folder

_SHOWN_NAME = 80  # characters of a name that is too long

app = typer.Typer(
    help="Teach a computer to tell your images apart.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for part in (data, training, runs, demo, evaluate, ship, serving, models):  # the order in the help
    app.add_typer(part.app)


def run() -> None:
    """Run the command as a process of its own."""
    code: object = 0
    try:
        main()
    except SystemExit as error:
        code = error.code
    if sys.argv[1:2] == ["predict"] and isinstance(code, int):
        # Unloading torch takes half a second, as long as the prediction of a few images.
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    sys.exit(code)  # type: ignore[arg-type]


def main() -> None:
    """Run the command; an error of the user's input is one sentence and exit code 1."""
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed, as by >&- in a shell
            setattr(sys, stream, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    # Why an image is refused is reported by the command.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    # What matplotlib caches goes where we cache: the process is ours alone.
    os.environ.setdefault("MPLCONFIGDIR", str(cache_folder() / "matplotlib"))
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # a full disk is reported below, and not when Python ends
    except TellapartError as error:
        sys.exit(_report(error))
    except SystemExit as error:
        if error.code == 130:  # what typer makes of Ctrl-C, without a word
            resumable = sys.argv[1:2] in (["train"], ["tune"], ["ensemble"])
            print("Interrupted." + " Continue with --resume." * resumable, file=sys.stderr)
        raise
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        _discard_output()
        sys.exit(1)
    except OSError as error:  # a path that is too long, leads to itself or may not be entered; a full disk
        if error.filename is None:
            _discard_output()
        sys.exit(_report(FileAccessError(_describe_access(error))))


def _discard_output() -> None:
    """Write what is still to be printed to nowhere, so that it cannot fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _describe_access(error: OSError) -> str:
    reason = error.strerror or first_line(error)
    name = error.filename if isinstance(error.filename, str) else ""
    shown = printable(name if len(name) <= _SHOWN_NAME else f"{name[:_SHOWN_NAME]}...")
    return f"Cannot access {shown}: {reason.lower()}; choose another path." if name else f"{reason}."


def _report(error: TellapartError) -> int:
    """Print an error, on stdout too where the result was to be JSON; return the exit code."""
    if "--json" in sys.argv:
        print(json.dumps({"error": {"code": error.code, "message": str(error)}}))
    if isinstance(error, InterruptedTrainingError):
        finish = ", or finish now with --resume --finish" if sys.argv[1:2] == ["train"] else ""
        print(f"{error} Resume with --resume{finish}.", file=sys.stderr)
        return 128 + error.number
    rank = f"Rank {os.environ['RANK']}: " if "RANK" in os.environ else ""
    print(f"{rank}Error: {error}", file=sys.stderr)
    return 1


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tellapart {tellapart.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass
