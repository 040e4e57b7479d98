"""Context managers that suppress the output of third-party exporters."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silence_loggers(*names: str) -> Iterator[None]:
    """Suppress Python warnings, and log messages below ERROR of these loggers; "" is the root logger."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def silence_process() -> Iterator[None]:
    """Suppress warnings, log messages up to WARNING, and everything that native code writes to stderr."""
    level, stderr = logging.root.manager.disable, os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    logging.disable(logging.WARNING)
    os.dup2(null, 2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)
        logging.disable(level)
