"""Limits on connections: slow and large heads and bodies, idle connections, and what we need of uvicorn."""

import asyncio
import contextlib
import inspect
import json
import re
import socket
import time
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import uvicorn
from packaging.requirements import Requirement
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from servers import wait_for
from tellapart.serving.limits import Limits

UNFINISHED = b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50000\r\n\r\nabc"
CHUNKED = b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
TIMEOUT = 20  # seconds
PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"


def connect(server, content=b""):
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT)
    connection.sendall(content)
    return connection


def status_line(connection):
    return connection.recv(100)[:12]


@pytest.fixture
def limited(start_server):
    limits = Limits(images=2, header_seconds=1, body_seconds=2, body_bytes=10**6, buffered_bytes=10**7)
    return start_server(limits=limits)


def test_slow_clients_time_out_and_requests_over_capacity_are_refused(limited, photos):
    photo = photos[0].read_bytes()
    connections = [connect(limited, b"POST /v1/predict HT"), *(connect(limited, UNFINISHED) for _ in range(2))]
    wait_for(lambda: limited.images_in_progress() == 2)
    status, problem, headers = limited.ask(body=photo)
    assert (status, problem["code"], headers["retry-after"]) == (503, "at_capacity", "1")
    status, problem, _ = limited.ask("/v2/models/model/infer", photo)
    assert (status, problem["code"], problem["error"]) == (503, "at_capacity", problem["detail"])
    for connection in connections:
        with connection:
            assert status_line(connection) == b"HTTP/1.1 408"
    wait_for(lambda: limited.images_in_progress() == 0)
    assert limited.ask(body=photo)[0] == 200


def test_a_chunked_body_is_limited(limited):
    with connect(limited, CHUNKED) as connection:
        with contextlib.suppress(OSError):  # the server closes before all is sent
            for _ in range(40):
                connection.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")
        assert status_line(connection) == b"HTTP/1.1 413"
    assert limited.metrics()[("tellapart_buffered_bytes",)] == 0


def test_capacity_is_given_back_when_a_client_disconnects(limited):
    with connect(limited, UNFINISHED):
        wait_for(lambda: limited.images_in_progress() == 1)
    wait_for(lambda: limited.images_in_progress() == 0, 1.5)  # before the body times out


@pytest.mark.parametrize(
    ("head", "repeated"),
    [
        (b"GET / HTTP/1.1\r\nhost: localhost\r\nx: ", b"y" * 9000),
        (b"GET / HTTP/1.1\r\nhost: localhost\r\n", b"x: y\r\n" * 1500),
        (CHUNKED + b"1\r\na\r\n0\r\n", b"x: y\r\n" * 1500),
    ],
    ids=["long header", "many headers", "many trailers"],
)
def test_heads_and_trailers_are_limited(server, head, repeated):
    with connect(server, head) as connection, contextlib.suppress(OSError):
        for _ in range(40):
            connection.sendall(repeated)
            time.sleep(0.005)
        assert status_line(connection) == b"HTTP/1.1 431"


def test_an_idle_connection_is_closed(limited):
    with connect(limited, b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n") as connection:
        response = b""
        while b"alive" not in response:
            response += connection.recv(1000)
        connection.sendall(b"\r\n")  # ends the keep-alive time, and starts no request
        assert connection.recv(100) == b""
    assert limited.ask("/healthz")[0] == 200


def read_responses(connection, count):
    """Return the statuses of responses, and their content."""
    received, responses = b"", []
    while len(responses) < count:
        if not (chunk := connection.recv(65536)):
            break
        received += chunk
        while b"\r\n\r\n" in received:
            head, _, rest = received.partition(b"\r\n\r\n")
            if head.startswith(b"HTTP/1.1 100"):  # an interim response
                received = rest
                continue
            length = int(re.search(rb"content-length: (\d+)", head.lower())[1])
            if len(rest) < length:
                break
            responses.append((int(head[9:12]), rest[:length]))
            received = rest[length:]
    return responses


def post(body, *headers, path="/v1/predict"):
    lines = [f"POST {path} HTTP/1.1", "host: localhost", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


HTTP2 = (
    "Connection: Upgrade, HTTP2-Settings",
    "upgrade: h2c",
    "HTTP2-Settings: AAMAAABkAAQBAAAA",
)
WEBSOCKET = ("Connection: upgrade", "Upgrade: websocket", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==")


@pytest.mark.parametrize("headers", [HTTP2, WEBSOCKET])
@pytest.mark.parametrize("piece", [10**6, 50, 7])
def test_a_wish_for_another_protocol_is_ignored(server, photos, headers, piece):
    """What follows is neither lost nor taken for another request, as one that is hidden in the body would be."""
    images = [path.read_bytes() for path in photos[:2]]
    hidden = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(images[1]), images[1])
    head = b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n"
    head += "\r\n".join([*headers, "", ""]).encode()
    content = post(images[0], *headers) + post(hidden, *headers) + head + chunked + hidden
    with connect(server) as connection:
        for start in range(0, len(content), piece if piece > 10 else 997):
            connection.sendall(content[start : start + (piece if piece > 10 else 997)])
        responses = read_responses(connection, 4)
    assert [status for status, _ in responses] == [200, 415, 200, 200]
    predicted = [json.loads(responses[number][1])["label"] for number in (0, 2)]
    assert predicted == [server.ask(body=image)[1]["label"] for image in images]
    assert json.loads(responses[3][1]) == {"status": "alive"}


def test_a_request_without_a_body_may_wish_for_another_protocol(server):
    request = "\r\n".join(["GET /healthz HTTP/1.1", "host: localhost", *HTTP2, "", ""])
    with connect(server, request.encode()) as connection:
        assert read_responses(connection, 1)[0][0] == 200
    with connect(server, b"CONNECT localhost:80 HTTP/1.1\r\nhost: localhost:80\r\n\r\n") as connection:
        assert status_line(connection) == b"HTTP/1.1 400"


def test_a_client_that_sends_no_more_gets_its_responses(server, photos):
    photo = photos[0].read_bytes()
    with connect(server, post(photo) * 3) as connection:
        connection.shutdown(socket.SHUT_WR)
        assert [status for status, _ in read_responses(connection, 3)] == [200] * 3
        assert connection.recv(1) == b""


def test_a_client_of_http_1_0_gets_no_interim_response(server, photos):
    with connect(server, post(photos[0].read_bytes()).replace(b"HTTP/1.1", b"HTTP/1.0", 1)) as connection:
        connection.shutdown(socket.SHUT_WR)
        assert status_line(connection) == b"HTTP/1.1 200"


def test_work_for_a_client_that_has_gone_is_given_up(server, photos):
    """After a complete request: the end of what it sends looks as if it still waited for the response."""
    name = ("tellapart_request_errors_total", "client_disconnected")
    before = server.metrics().get(name, 0)
    connect(server, post(photos[0].read_bytes(), path="/v1/explain")).close()
    wait_for(lambda: server.metrics().get(name, 0) == before + 1 or server.images_in_progress() == 0, 10)
    wait_for(lambda: server.images_in_progress() == 0, 3)


def test_an_early_response_leaves_the_connection_usable(limited, photos):
    """A body that is still sent after the response does not end in a response of its own."""
    body = photos[0].read_bytes()
    with connect(limited, post(body, path="/v1/predict?model=none")[:-100]) as connection:
        assert read_responses(connection, 1)[0][0] == 404
        connection.sendall(body[-100:-50])
        connection.sendall(body[-50:])
        time.sleep(1.5)  # longer than a head may take
        connection.sendall(post(body))
        assert read_responses(connection, 1)[0][0] == 200


def test_what_is_not_http_is_refused_after_the_requests_before_it(server, photos):
    with connect(server, b"GARBAGE\r\n\r\n") as connection:
        ((status, content),) = read_responses(connection, 1)
        assert (status, json.loads(content)["code"]) == (400, "invalid_http")
        assert connection.recv(1) == b""
    with connect(server, post(photos[0].read_bytes()) + b"GARBAGE\r\n\r\n") as connection:
        assert [status for status, _ in read_responses(connection, 2)] == [200]


def test_idle_connections_lock_nobody_out(start_server, photos):
    server = start_server(limits=Limits(connections=20))
    photo = photos[0].read_bytes()
    idle, busy = [connect(server) for _ in range(10)], connect(server, post(photo)[:-10])
    idle += [connect(server) for _ in range(40)]
    assert server.ask("/readyz")[0] == 200
    assert server.ask(body=photo)[0] == 200
    busy.sendall(post(photo)[-10:])  # a request in progress is not idle
    assert status_line(busy) == b"HTTP/1.1 200"
    assert idle[0].recv(1) == b""  # the longest idle connection was closed, and the newest was not
    idle[-1].sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert status_line(idle[-1]) == b"HTTP/1.1 200"
    for connection in (*idle, busy):
        connection.close()


def test_the_installed_uvicorn_is_within_the_bounds():
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    (requirement,) = [line for line in extras["serve"] if Requirement(line).name == "uvicorn"]
    bounds = Requirement(requirement).specifier
    assert version("uvicorn") in bounds
    assert any(bound.operator == "<" for bound in bounds)  # its attributes may change with any release


def test_uvicorn_has_the_attributes_that_the_protocol_needs():
    """`serving.http.protocol` extends these, which uvicorn does not document."""
    config = uvicorn.Config(app=lambda scope: None, http=HttpToolsProtocol, ws="none")
    state = ServerState()

    async def create_protocol():
        return HttpToolsProtocol(config=config, server_state=state, app_state={})

    protocol = asyncio.run(create_protocol())
    attributes = {"cycle", "connections", "loop", "transport", "flow", "parser", "headers", "expect_100_continue"}
    assert attributes | {"timeout_keep_alive", "timeout_keep_alive_task"} <= vars(protocol).keys()
    assert (protocol.cycle, protocol.timeout_keep_alive_task) == (None, None)
    assert protocol.connections is state.connections
    events = ("connection_made", "data_received", "connection_lost")
    parser_callbacks = ("on_message_begin", "on_headers_complete", "on_body", "on_message_complete")
    for name in (*events, *parser_callbacks, "shutdown", "timeout_keep_alive_handler"):
        assert inspect.isfunction(getattr(HttpToolsProtocol, name)), name


def test_uvicorn_has_the_attributes_that_the_server_needs():
    """`serving.http.uvicorn_server` overrides and uses these, which uvicorn does not document."""
    server = uvicorn.Server(uvicorn.Config(app=lambda scope: None))
    assert {"server_state", "should_exit", "config"} <= vars(server).keys()
    assert inspect.iscoroutinefunction(uvicorn.Server.shutdown)
    assert list(inspect.signature(uvicorn.Server.shutdown).parameters) == ["self", "sockets"]
    assert "servers" in inspect.getsource(uvicorn.Server.startup)
    assert callable(uvicorn.Server.capture_signals)
    factory = object()
    config = uvicorn.Config(app=lambda scope: None, http=factory, ws="none")
    config.load()
    assert config.http_protocol_class is factory  # uvicorn calls it, whatever its type


@pytest.mark.parametrize("head", ["HTTP/1.0", "HTTP/1.1\r\nconnection: close"])
def test_an_early_response_reaches_a_client_whose_connection_is_not_kept(limited, head):
    size = 900_000
    start = f"POST /v1/predict?model=none {head}\r\nhost: localhost\r\ncontent-length: {size}\r\n\r\n"
    for _ in range(5):
        with connect(limited, start.encode()) as connection:
            for _ in range(9):
                time.sleep(0.01)  # the response comes before the body
                connection.sendall(bytes(size // 9))
            assert status_line(connection).endswith(b"404")
            while connection.recv(10_000):
                pass  # until the server closes the connection
