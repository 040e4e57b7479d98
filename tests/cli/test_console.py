"""The output of the command line in a terminal, in a log and without colours; and shell completion."""

import os
import pty
import re
import subprocess
import sys

import pytest

from folders import digit_folder
from tellapart.progress import Progress, TerminalProgress, default_progress

TRAIN = ["train", "digits", "--epochs", "1", "--set", "preprocess.size=16", "--no-autotune", "--out"]
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3\d|4\d|9\d|38;[\d;]+)m")


@pytest.fixture
def folder(tmp_path):
    digit_folder(tmp_path / "digits", 2, 12)
    return tmp_path


def run_in_terminal(arguments, folder, **settings):
    """What a person sees: all that the command writes to a terminal of its own."""
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")} | settings
    command = [sys.executable, "-m", "tellapart", *arguments]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        seen += piece
    os.close(ours)
    assert process.wait() == 0, seen.decode()
    return seen.decode()


def test_a_terminal_shows_bars_and_no_colour_is_respected(folder):
    coloured = run_in_terminal([*TRAIN, "a"], folder, TERM="xterm-256color")
    assert COLOUR.search(coloured)
    assert "\x1b[?25l" in coloured  # a live bar hides the cursor
    plain = run_in_terminal([*TRAIN, "b"], folder, TERM="xterm-256color", NO_COLOR="1")
    assert not COLOUR.search(plain)
    assert "model.safetensors" in plain


def test_a_log_gets_lines_without_control_characters(folder):
    command = [sys.executable, "-m", "tellapart", *TRAIN, "log"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert not set(done.stdout + done.stderr) & {"\x1b", "\r", "\b"}
    assert re.search(r"1/1 .* \d\.\d{3} ", done.stderr)  # the line of the epoch with its loss
    assert "accuracy" in done.stdout


def test_a_program_that_configured_logging_gets_records_instead_of_messages(monkeypatch):
    assert type(default_progress()) is Progress  # pytest has configured logging
    with monkeypatch.context() as patch:
        patch.setattr("tellapart.progress.logger.hasHandlers", lambda: False)
        assert isinstance(default_progress(), TerminalProgress)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert isinstance(default_progress(), TerminalProgress)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    assert isinstance(default_progress(), TerminalProgress)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tellapart", "tra"], ["train"]),
        (["tellapart", "train", "--max-t"], ["--max-time"]),
        (["tellapart", "export", "run", "--to", "onnx"], ["onnx", "onnx-int8"]),
    ],
)
def test_a_shell_completes_words(words, expected, tmp_path):
    """By bash itself, with the script that it is given."""
    script = (
        f"source <(tellapart --show-completion bash); COMP_WORDS=({' '.join(words)}); "
        f"COMP_CWORD={len(words) - 1}; _tellapart_completion tellapart; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    found = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, env=os.environ | {"PATH": path}
    )
    assert found.stdout.split() == expected
