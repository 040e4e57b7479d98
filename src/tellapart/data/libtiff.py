"""Errors of libtiff while Pillow decodes a TIFF: Pillow lets it print them, and may return what was decoded."""

import ctypes
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import PIL

_LIBRARIES = ("../pillow.libs/libtiff*", ".dylibs/libtiff*")  # in Pillow's wheels for Linux and macOS
_VALUE = re.compile(r"%\S+\s*")
_Handler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
_errors = threading.local()  # libtiff calls its handler in the thread that decodes


@contextmanager
def strict_libtiff() -> Iterator[None]:
    """Raise `ValueError` if libtiff reports an error inside the context; nothing is printed.

    Without Pillow's own libtiff, as in packages of Linux distributions, there is no such check.
    """
    _install()
    _errors.first = ""
    try:
        yield
    except OSError as error:
        raise _damaged() from error
    if _errors.first:
        raise _damaged()


def _damaged() -> ValueError:
    cause = f" (libtiff: {_errors.first})" if _errors.first else ""
    return ValueError(f"its pixels are damaged, or their compression is not supported{cause}")


@_Handler  # type: ignore[untyped-decorator]
def _note(module: bytes | None, message: bytes | None, arguments: int | None) -> None:  # noqa: ARG001
    """Keep the first error of this thread, without the values that libtiff would insert."""
    if not getattr(_errors, "first", ""):
        text = (message or b"").decode(errors="replace")
        _errors.first = (text.partition("%")[0] or _VALUE.sub("", text)).strip(" :,(") or "unknown error"


@cache
def _install() -> None:
    """Replace the handlers that print."""
    package = Path(PIL.__file__).parent
    for path in (file for pattern in _LIBRARIES for file in package.glob(pattern)):
        library = ctypes.CDLL(str(path))  # the one that Pillow has loaded
        for function, handler in (("TIFFSetErrorHandler", _note), ("TIFFSetWarningHandler", None)):
            setter = getattr(library, function)
            setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
            setter(ctypes.cast(handler, ctypes.c_void_p) if handler else None)
