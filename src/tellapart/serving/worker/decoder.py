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
from contextlib import suppress
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
_READY = b"r"  # what a new process sends
_START_SECONDS, _EXIT_SECONDS = 60.0, 5.0


@dataclass(frozen=True)
class DecodeJob:
    """What to do with a file: resize the image for a network, or, without settings, encode it for capture."""

    content: bytes
    settings: PreprocessSettings | None


class Decoder:
    """One process, started again after it was ended. It belongs to one thread at a time.

    max_pixels: of an image; larger ones are refused.
    """

    connection: socket.socket
    process: subprocess.Popen[bytes]
    is_ready: bool

    def __init__(self, max_pixels: int) -> None:
        self.max_pixels = max_pixels
        self._start()

    def decode(self, job: DecodeJob, seconds: float) -> bytes:
        """Return the pixels (S, S, 3), or the encoded image.

        Raises `ImageRefusedError`, or `TimeoutError` after this time, for which the process is ended.
        """
        settings = json.dumps(job.settings.to_json()).encode() if job.settings else b""
        request = _REQUEST.pack(len(settings), len(job.content)) + settings
        try:
            self.wait_until_ready()
            status, content = self._exchange(request, job.content, time.monotonic() + seconds)
        except (EOFError, ConnectionError) as error:
            raise self._lost() from error
        except BaseException:  # the rest of the response would be taken for that to the next image
            self._restart()
            raise
        if status != HTTPStatus.OK:
            problem = json.loads(content)
            raise ImageRefusedError(ProblemType(problem["code"], HTTPStatus(status)), problem["reason"])
        return content

    def _exchange(self, request: bytes, content: bytes, deadline: float) -> tuple[int, bytes]:
        self._set_timeout(deadline)
        self._send(request, content)
        self._set_timeout(deadline)
        status, length = _RESPONSE.unpack(read_exactly(self.connection, _RESPONSE.size))
        self.connection.settimeout(_START_SECONDS)  # the image is decoded
        return status, bytes(read_exactly(self.connection, length))

    def _set_timeout(self, deadline: float) -> None:
        self.connection.settimeout(max(0.001, deadline - time.monotonic()))

    def wait_until_ready(self) -> None:
        """Wait for a new process, whose start does not count as time of an image."""
        if not self.is_ready:
            self.connection.settimeout(_START_SECONDS)
            read_exactly(self.connection, len(_READY))
            self.is_ready = True

    def _lost(self) -> ImageRefusedError:
        """Return the error for an image whose decoding ended the process, and start another."""
        code: int | None = None
        with suppress(subprocess.TimeoutExpired):
            code = self.process.wait(_EXIT_SECONDS)
        self._restart()
        if code == -signal.SIGKILL:  # by the system, which lacks memory
            return ImageRefusedError(OUT_OF_MEMORY, "there is not enough memory for this image")
        return ImageRefusedError(UNREADABLE_IMAGE, "the image crashed the decoder")

    def _send(self, request: bytes, content: bytes) -> None:
        """Send a request; to a new process if the old one has ended since the last request, for lack of memory say."""
        try:
            self.connection.sendall(request)
        except ConnectionError:
            self._restart()
            self.wait_until_ready()
            self.connection.sendall(request)
        self.connection.sendall(content)

    def _start(self) -> None:
        self.is_ready = False
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
        connection.sendall(_READY)
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
