"""The models of a worker, which follow their files: a changed file is loaded; until then the old model is in use."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tellapart.serving.worker.loaded_model import FileVersion, LoadedModel, file_version, load_model
from tellapart.serving.worker.messages import EventKind, WorkerEvent
from tellapart.serving.worker.plan import WorkerPlan


class ModelFiles:
    """The models in files, in the order of `paths`; a path may be a symbolic link to another file from time to time.

    copies: of the files that were in use before this process started.
    """

    def __init__(self, paths: list[Path], copies: list[Path], plan: WorkerPlan) -> None:
        self.paths, self.copies, self.plan = paths, copies, plan
        self.models: list[LoadedModel] = []
        self._failed: dict[int, FileVersion | str] = {}  # what was tried last, by model
        self._reported: dict[int, FileVersion | str] = {}  # the failures that were reported

    def load_all(self) -> Iterator[WorkerEvent]:
        """Load each file, or its copy; yields what happens, and ends at a model of which neither can be loaded."""
        for index, path in enumerate(self.paths):
            defect = ""
            try:
                model = load_model(path, self.plan)
            except Exception as error:  # the runtime's exceptions have no common class
                event = _defect_event(index, error)
                defect = event.reason
                try:
                    model = load_model(self.copies[index], self.plan)
                except Exception:  # usually there is no copy
                    yield event
                    return
            self.models.append(model)
            yield replace(self._loaded_event(index), reason=defect)

    def reload_changed(self) -> Iterator[WorkerEvent]:
        """Load the files that have changed; requests in progress keep the model that they started with.

        A file that cannot be loaded is reported once, and only if it is the same at the next call: it may still be
        being written.
        """
        for index, path in enumerate(self.paths):
            version: FileVersion | str = "missing"
            try:
                version = file_version(path)
                if version == self.models[index].version:
                    self._failed.pop(index, None)
                    if self._reported.pop(index, None):  # the original file is back
                        yield self._loaded_event(index)
                    continue
                if version == self._reported.get(index):
                    continue
                self.models[index] = load_model(path, self.plan)
                self._failed.pop(index, None)
                self._reported.pop(index, None)
                yield self._loaded_event(index)
            except Exception as error:  # the runtime's exceptions have no common class
                if self._failed.get(index) == version and self._reported.get(index) != version:
                    self._reported[index] = version
                    yield _defect_event(index, error)
                self._failed[index] = version

    def _loaded_event(self, index: int) -> WorkerEvent:
        model: LoadedModel = self.models[index]
        return WorkerEvent(EventKind.MODEL_LOADED, index, model.description(), model.document)


def _defect_event(index: int, error: Exception) -> WorkerEvent:
    return WorkerEvent(EventKind.MODEL_NOT_LOADED, index, reason=str(error) or type(error).__name__)
