"""Traces of requests with OpenTelemetry, sent where its environment variables say (`OTEL_EXPORTER_OTLP_ENDPOINT`).

A request with the header `traceparent` continues that trace. Its span has what the request log says of it.
"""

import asyncio
import os

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.util.http import ExcludeList
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PROBES = r"^https?://[^/]+/(healthz|readyz|metrics|v2/health/(live|ready))(\?|$)"


class TracedApp:
    """An application with a span for each request; the last spans are sent when it stops."""

    def __init__(self, app: ASGIApp) -> None:
        resource = Resource.create({SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME", "tellapart")})
        self.provider = TracerProvider(resource=resource)
        self.provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self.app = OpenTelemetryMiddleware(
            _WithDetails(app),
            tracer_provider=self.provider,
            excluded_urls=ExcludeList([_PROBES]),
            exclude_spans=["receive", "send"],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, or the lifespan."""
        await self.app(scope, receive, send)
        if scope["type"] == "lifespan":
            await asyncio.to_thread(self.provider.shutdown)


class _WithDetails:
    """Adds to the span of a request what the routes have noted for the request log."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_details(message: Message) -> None:
            if message["type"] == "http.response.start":  # the span ends with the response
                details = scope["state"]["log"]
                trace.get_current_span().set_attributes({f"tellapart.{key}": value for key, value in details.items()})
            await send(message)

        await self.app(scope, receive, send_with_details)
