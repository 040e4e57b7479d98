"""The commands that answer others, and take back what was learnt from it: serve, collected."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tellapart.optional import require
from tellapart.progress import TerminalProgress
from tellapart.serving.limits import Limits

app = typer.Typer()


@app.command()
def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="Exported files, classifier files or run folders; NAME=MODEL names one."
        ),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; this machine alone if not given.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file with the token that clients have to show.")
    ] = None,
    origin: Annotated[
        list[str] | None, typer.Option(help="Origin of pages in browsers that may ask, as https://example.org.")
    ] = None,
    check: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="For classifier files: pictures to compare their export on."),
    ] = None,
    collect: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            help="Keep pictures that are unfamiliar or uncertain, to label them: a folder, or postgresql://...",
        ),
    ] = None,
    queue: Annotated[int, typer.Option(min=1, help="Requests inside at once; more are told to come again.")] = 128,
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds in which a request is answered, or never.")] = 10,
    processes: Annotated[int, typer.Option(min=1, help="Processes that compute; more than one for many cores.")] = 1,
) -> None:
    """Answer by HTTP what pictures show, until told to end."""
    server, prepare = (
        require("tellapart.serving.server", "serve"),
        require("tellapart.serving.model_repository", "serve"),
    )
    progress, limits = TerminalProgress(), Limits(pictures=queue, deadline=deadline)
    token = server.read_token(token_file) if token_file else None
    with tempfile.TemporaryDirectory() as folder:
        files = prepare.prepared(models, check, Path(folder), progress)
        server.serve(
            files,
            host=host,
            port=port,
            token=token,
            origins=tuple(origin or ()),
            limits=limits,
            processes=processes,
            collect=collect,
            progress=progress,
        )


@app.command()
def collected(
    where: Annotated[str, typer.Argument(metavar="WHERE", help="What `serve --collect` was given.")],
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="The new folder to write.")],
) -> None:
    """Write the pictures that people labelled on the server's page.

    With a manifest to train with.
    """
    manifest = require("tellapart.serving.capture.export_labelled", "serve").collected(where, out)
    print(manifest)
