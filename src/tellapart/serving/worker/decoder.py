"""A process that decodes images of untrusted clients: it can be ended alone, without the work of others.

The worker sends the bytes of a file, and gets the resized pixels or the reason why there are none. Letters: S the
network's input size.
"""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from http import HTTPStatus

import numpy as np

from tellapart.data.threads import one_blas_thread
from tellapart.preprocess.numpy_resize import resize
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.serving.problem import OUT_OF_MEMORY, UNREADABLE_IMAGE, ProblemType
from tellapart.serving.worker.messages import read_exactly
from tellapart.serving.worker.untrusted_image import ImageRefusedError, decode_untrusted, encode_for_capture

_REQUEST = struct.Struct("!II")  # lengths of the settings and of the file
_RESPONSE = struct.Struct("!HI")  # HTTP status, length of the content
_LOST = "decoding it ended the process that decodes images"


@dataclass(frozen=True)
class DecodeJob:
    """What to do with a file: resize the image for a network, or, without settings, encode it for capture."""

    content: bytes
    settings: PreprocessSettings | None


class Decoder:
    """One process, started again after it was ended. It belongs to one thread at a time.

    max_pixels: of an image; larger ones are refused.
    """

    def __init__(self, max_pixels: int) -> None:
        self.max_pixels = max_pixels
        self._start()

    def decode(self, job: DecodeJob, seconds: float) -> bytes:
        """Return the pixels (S, S, 3), or the encoded image.

        Raises `ImageRefusedError`, or `TimeoutError` after this time, for which the process is ended.
        """
        deadline = time.monotonic() + seconds
        settings = json.dumps(job.settings.to_json()).encode() if job.settings else b""
        request = _REQUEST.pack(len(settings), len(job.content)) + settings
        try:
            self.connection.settimeout(max(0.001, seconds))
            self._send(request, job.content)
            self.connection.settimeout(max(0.001, deadline - time.monotonic()))
            status, length = _RESPONSE.unpack(read_exactly(self.connection, _RESPONSE.size))
            self.connection.settimeout(max(1.0, deadline - time.monotonic()))
            content = bytes(read_exactly(self.connection, length))
        except TimeoutError:
            self._restart()
            raise
        except (EOFError, OSError) as error:
            self._restart()
            raise ImageRefusedError(UNREADABLE_IMAGE, _LOST) from error
        if status != HTTPStatus.OK:
            problem = json.loads(content)
            raise ImageRefusedError(ProblemType(problem["code"], HTTPStatus(status)), problem["reason"])
        return content

    def _send(self, request: bytes, content: bytes) -> None:
        """Send a request; to a new process if the old one has ended since the last request, for lack of memory say."""
        try:
            self.connection.sendall(request)
        except (BrokenPipeError, ConnectionError):
            self._restart()
            self.connection.sendall(request)
        self.connection.sendall(content)

    def _start(self) -> None:
        self.connection, remote = socket.socketpair()
        # Unlike `multiprocessing`, a command does not import the main module of the server once more.
        command = [sys.executable, "-P", "-m", __name__, str(remote.fileno()), str(self.max_pixels)]
        remote.set_inheritable(True)
        is_windows = sys.platform == "win32"
        self.process = subprocess.Popen(  # noqa: S603 (a program of this package)
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            close_fds=not is_windows,
            pass_fds=() if is_windows else (remote.fileno(),),
        )
        remote.close()

    def _restart(self) -> None:
        self.process.kill()
        self.process.wait()
        self.connection.close()
        self._start()


def run_decoder(connection: socket.socket, max_pixels: int) -> None:
    """Answer requests until the worker closes the connection."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # of the whole process group
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    with one_blas_thread:
        while True:
            try:
                lengths = _REQUEST.unpack(read_exactly(connection, _REQUEST.size))
                settings, content = (bytes(read_exactly(connection, length)) for length in lengths)
                status, response = _respond(settings, content, max_pixels)
                connection.sendall(_RESPONSE.pack(status, len(response)) + response)
            except (EOFError, OSError):
                os._exit(0)  # the worker is gone


def _respond(settings: bytes, content: bytes, max_pixels: int) -> tuple[int, bytes]:
    try:
        image = decode_untrusted(content, max_pixels)
        del content
        if not settings:
            return HTTPStatus.OK, encode_for_capture(image)
        pixels = resize(image, PreprocessSettings.from_json(json.loads(settings)))
        return HTTPStatus.OK, np.ascontiguousarray(pixels).tobytes()
    except ImageRefusedError as error:
        problem, reason = error.problem, error.reason
    except MemoryError:
        problem, reason = OUT_OF_MEMORY, "there is not enough memory for this image"
    except Exception as error:  # no image may end the process
        problem, reason = UNREADABLE_IMAGE, type(error).__name__
    return problem.status, json.dumps({"code": problem.code, "reason": reason}).encode()


if __name__ == "__main__":
    run_decoder(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
