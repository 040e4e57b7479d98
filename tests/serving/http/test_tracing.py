"""Spans arrive at an OpenTelemetry collector, in the trace of the client; without the option, nothing does."""

import http.server
import threading
from contextlib import contextmanager

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from servers import wait_for

TRACE = "0af7651916cd43dd8448eb211c80319c"


@contextmanager
def collector():
    """Yield the address of a collector of traces, and the spans that it has received, by the name of the service."""
    spans = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            content = self.rfile.read(int(self.headers["content-length"]))
            for group in ExportTraceServiceRequest.FromString(content).resource_spans:
                names = {item.key: item.value.string_value for item in group.resource.attributes}
                spans.extend((names["service.name"], span) for scope in group.scope_spans for span in scope.spans)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", spans
        server.shutdown()


def test_spans_continue_the_trace_of_the_client(start_server, photos, monkeypatch):
    with collector() as (address, spans):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        server = start_server(opentelemetry=True)
        headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
        status, prediction, received = server.ask(body=photos[0].read_bytes(), **headers)
        assert (status, received["x-request-id"]) == (200, TRACE)
        assert server.ask(body=b"text", **headers)[0] == 415
        assert server.ask("/healthz")[0] == 200
        wait_for(lambda: len(spans) >= 2, 20)
        assert server.stop() == 0
        assert server.tracebacks() == 0
    assert {name for name, _ in spans} == {"tellapart"}
    assert {span.trace_id.hex() for _, span in spans} == {TRACE}
    first, second = ({item.key: item.value for item in span.attributes} for _, span in spans)
    assert first["tellapart.model"].string_value == "model"
    assert first["tellapart.identity"].string_value == prediction["model"]
    assert second["tellapart.code"].string_value == "not_an_image"


def test_nothing_is_sent_without_the_option(start_server, photos, monkeypatch):
    with collector() as (address, spans):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        server = start_server()
        assert server.ask(body=photos[0].read_bytes())[0] == 200
        assert server.stop() == 0
        assert not spans
