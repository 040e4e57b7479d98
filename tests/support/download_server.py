"""A server of files that breaks off, ignores ranges or answers with errors, as told."""

import hashlib
import http.server
import threading
from contextlib import contextmanager

from tellapart.io.download import RemoteFile


class DownloadServer(http.server.ThreadingHTTPServer):
    """Serves `files`; breaks off after `cuts` bytes and answers with `statuses`, one a request; may ignore ranges."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cuts: list[int] = []
        self.ranges: list[str | None] = []
        self.statuses: list[int] = []
        self.ignores_ranges = False

    def remote(self, name: str, content: bytes) -> RemoteFile:
        self.files[name] = content
        address = f"http://127.0.0.1:{self.server_port}/sub/{name}?x=1"
        return RemoteFile(address, hashlib.sha256(content).hexdigest(), len(content))


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        wanted = self.headers["Range"]
        self.server.ranges.append(wanted)
        content = self.server.files.get(self.path.partition("?")[0].rpartition("/")[2])
        status = self.server.statuses.pop(0) if self.server.statuses else 200 if content is not None else 404
        start = int(wanted[6:-1]) if wanted and not self.server.ignores_ranges else 0
        if status == 200 and start:
            status = 206 if start < len(content) else 416
        body = content[start:] if status in (200, 206) else b"sorry"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts else len(body)
        self.wfile.write(body[:cut])


@contextmanager
def running_server():
    """Yield a server that answers until the block ends."""
    with DownloadServer() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()
