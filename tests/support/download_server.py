"""A file server that can close connections early, ignore ranges and respond with errors."""

import hashlib
import http.server
import threading
from contextlib import contextmanager

from tellapart.io.download import RemoteFile


class DownloadServer(http.server.ThreadingHTTPServer):
    """Serves `files`.

    cuts: number of bytes after which each response ends. statuses: of each response. ranges: those requested.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cuts: list[int] = []
        self.ranges: list[str | None] = []
        self.statuses: list[int] = []
        self.ignores_ranges = False

    def remote(self, name: str, content: bytes) -> RemoteFile:
        """Serve a file and return its URL and checksum."""
        self.files[name] = content
        address = f"http://127.0.0.1:{self.server_port}/sub/{name}?x=1"
        return RemoteFile(address, hashlib.sha256(content).hexdigest(), len(content))


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        requested = self.headers["Range"]
        self.server.ranges.append(requested)
        content = self.server.files.get(self.path.partition("?")[0].rpartition("/")[2])
        status = self.server.statuses.pop(0) if self.server.statuses else 200 if content is not None else 404
        start = int(requested[6:-1]) if requested and not self.server.ignores_ranges else 0
        if status == 200 and start:
            status = 206 if start < len(content) else 416
        body = content[start:] if status in (200, 206) else b"error"
        # Before the head is sent: the client may then send its next request.
        cut = self.server.cuts.pop(0) if self.server.cuts else len(body)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut])


@contextmanager
def running_server():
    """Yield a running server."""
    with DownloadServer() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()
