"""A progress that records events, and one that stops a run at an event."""

from tellapart.progress import Progress


class RecordingProgress(Progress):
    """Records (event, message, values) of each report."""

    def __init__(self):
        self.records = []

    def _emit(self, level, event, message, values):
        super()._emit(level, event, message, values)
        self.records.append((event, message, values))

    @property
    def events(self):
        return [event for event, _, _ in self.records]

    @property
    def messages(self):
        return [message for _, message, _ in self.records]

    def values(self, event):
        """Return the values of each report of an event."""
        return [values for reported, _, values in self.records if reported == event]


class StoppedError(Exception):
    """Raised in the middle of a run, as a crash would be."""


class StopAt(Progress):
    """Raises `error` at an event that has the given values."""

    def __init__(self, event, error=StoppedError, **values):
        self.event, self.error, self.expected = event, error, values

    def _emit(self, level, event, message, values):
        if event == self.event and self.expected.items() <= values.items():
            raise self.error
