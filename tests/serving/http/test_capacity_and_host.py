"""A server for this machine alone refuses other host names and pages of other sites."""

import socket

import pytest

from tellapart.progress import Event


def test_other_host_names_and_origins_are_refused(server, photos):
    photo = photos[0].read_bytes()
    for headers in ({"host": "pets.example"}, {"origin": "https://evil.example"}):
        status, problem, _ = server.ask(body=photo, **headers)
        assert (status, problem["code"]) == (421, "misdirected_request")
    for origin in (server.address, "https://localhost:8443"):  # the latter behind a proxy on this machine
        assert server.ask(body=photo, origin=origin)[0] == 200


@pytest.mark.parametrize("host", ["127.0.0.2", "localhost"])
def test_every_loopback_address_is_local(start_server, host):
    server = start_server(host=host)
    assert server.values(Event.SERVER_OPEN) == []
    for name, expected in ((host, b"200"), ("pets.example", b"421")):
        with socket.create_connection((host, server.port)) as connection:
            connection.sendall(f"GET /healthz HTTP/1.1\r\nhost: {name}:{server.port}\r\n\r\n".encode())
            assert connection.recv(4096).split()[1] == expected
