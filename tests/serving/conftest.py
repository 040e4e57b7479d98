"""Servers for the tests of serving."""

import pytest

from servers import Server


@pytest.fixture(scope="module")
def server(exported, tmp_path_factory):
    """A server that the tests of a module share."""
    server = Server(tmp_path_factory.mktemp("server"), exported)
    yield server
    assert server.stop() == 0
    assert server.tracebacks() == 0


@pytest.fixture
def start_server(exported, tmp_path):
    """Return a function that starts a server with settings of its own."""
    servers = []

    def start(*models, **settings):
        folder = tmp_path / f"server {len(servers)}"
        folder.mkdir()
        servers.append(Server(folder, *(models or (exported,)), **settings))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
