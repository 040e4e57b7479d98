"""Commands of the HTTP server: serve, export-labels."""

import tempfile
from dataclasses import replace
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
            metavar="MODEL...",
            help="Exported files, classifier files or run directories; NAME=MODEL serves a model under this name.",
        ),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; local only by default.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with the bearer token that clients must send.")
    ] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="Origin allowed by CORS, as in https://example.org; repeatable.")
    ] = None,
    check: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE", help="Images for the parity check when a classifier file is exported before serving."
        ),
    ] = None,
    capture: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            help=(
                "Store images that are out of distribution or have an uncertain prediction, for labelling, in a "
                "folder or postgresql://..."
            ),
        ),
    ] = None,
    shadow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=MODEL",
            help=(
                "Candidate to compare with the model of this name: it classifies the same images, and no client sees "
                "its answers; requires --capture. Repeatable."
            ),
        ),
    ] = None,
    log_requests: Annotated[
        bool, typer.Option("--log-requests", help="Write one JSON object per request to standard output.")
    ] = False,
    opentelemetry: Annotated[
        bool,
        typer.Option("--opentelemetry", help="Send a trace per request to OTEL_EXPORTER_OTLP_ENDPOINT."),
    ] = False,
    grpc_port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port for gRPC (Open Inference Protocol: KServe, Triton); without it, HTTP only."
        ),
    ] = None,
    max_requests: Annotated[
        int, typer.Option(min=1, help="Maximum number of concurrent requests; further ones get 503 with Retry-After.")
    ] = 128,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds until a request times out.")] = 10,
    workers: Annotated[
        int, typer.Option(min=1, help="Number of worker processes; use more than one on a machine with many cores.")
    ] = 1,
) -> None:
    """Serve classifiers over HTTP, with a web page."""
    from tellapart.cli.early_checks import check_models

    repository = require("tellapart.serving.model_repository", "serve")
    check_models([repository.split_name(model)[1] for model in (*models, *(shadow or ()))], check)
    server = require("tellapart.serving.server", "serve")
    progress = TerminalProgress()
    settings = server.ServerSettings(
        host=host,
        port=port,
        token=server.read_token(token_file) if token_file else None,
        cors_origins=tuple(cors_origin or ()),
        limits=Limits(images=max_requests, timeout_seconds=timeout),
        workers=workers,
        capture=capture,
        log_requests=log_requests,
        grpc_port=grpc_port,
        opentelemetry=opentelemetry,
        shadow=dict(map(repository.split_name, shadow or ())),  # exported below
    )
    with tempfile.TemporaryDirectory() as folder:
        files = repository.prepare_models(models, check, Path(folder), progress)
        candidates = repository.prepare_models(shadow or (), check, Path(folder), progress)
        server.serve(files, replace(settings, shadow=candidates), progress)


@app.command("export-labels")
def export_labels(
    where: Annotated[str, typer.Argument(metavar="WHERE", help="The store given to `serve --capture`.")],
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="New folder to write.")],
) -> None:
    """Write the captured images that people have labelled, with a manifest for training."""
    manifest = require("tellapart.serving.capture.export_labelled", "serve").export_labelled(where, out)
    print(manifest)
