"""Events: their names and values reach the logger, and warnings have a level of their own."""

import logging
import subprocess
import sys

from recording import RecordingProgress
from tellapart.progress import Event, Progress, TerminalProgress


def test_events_are_records_of_the_logger(caplog):
    with caplog.at_level(logging.INFO, logger="tellapart"):
        Progress().report(Event.SPLIT, "Split.", train=3)
        Progress().warn(Event.AUDIT_WARNING, "Few images.")
    first, second = caplog.records
    assert (first.levelno, first.event, first.values) == (logging.INFO, "split", {"train": 3})
    assert (second.levelno, second.event, second.getMessage()) == (logging.WARNING, "audit_warning", "Few images.")


def test_the_terminal_marks_warnings_and_prints_markup_as_it_is(capsys):
    progress = TerminalProgress()
    progress.report(Event.SPLIT, "[bold]one[/bold]")
    progress.warn(Event.AUDIT_WARNING, "two")
    plain, warning = capsys.readouterr().err.splitlines()
    assert plain == "[bold]one[/bold]"
    assert warning.endswith("two")
    assert warning != "two"


def test_a_program_that_embeds_the_package_sees_nothing_by_default(capfd):
    with Progress().bar("step", 2) as advance:
        advance(1, "")
    Progress().report(Event.SPLIT, "Split.")
    assert capfd.readouterr() == ("", "")


def test_every_event_is_reported_somewhere():
    """An event that no module reports is a dead name."""
    import tellapart

    root = next(iter(tellapart.__path__))
    from pathlib import Path

    sources = "\n".join(path.read_text() for path in Path(root).rglob("*.py") if path.name != "progress.py")
    assert [event.name for event in Event if f"Event.{event.name}" not in sources] == []


def test_recorded_events_have_values():
    progress = RecordingProgress()
    progress.report(Event.EPOCH_END, "Epoch 1.", epoch=1)
    assert progress.values(Event.EPOCH_END) == [{"epoch": 1}]


def test_a_terminal_shows_a_warning_once():
    program = "from tellapart.progress import *; TerminalProgress().warn(Event.SPLIT, 'look out')"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stderr
    assert shown.count("look out") == 1
