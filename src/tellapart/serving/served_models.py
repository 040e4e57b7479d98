"""The models of a server, as its workers have loaded them: they change when their files do."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tellapart.errors import printable
from tellapart.progress import Event, Progress
from tellapart.serving.worker.messages import EventKind, WorkerEvent

Document = dict[str, Any]


@dataclass
class ServedModel:
    """A model that answers requests.

    metadata: the JSON document of its file. description: for clients; empty until a worker has loaded it. defect: why
    its changed file is not in use, if it is not.
    """

    name: str
    metadata: Document
    description: Document = field(default_factory=dict)
    defect: str = ""

    @property
    def identity(self) -> str:
        """The first digits of the SHA-256 of its file; empty until a worker has loaded it."""
        return str(self.description.get("model", ""))


class ServedModels:
    """The models by name, in the order of the workers' files; the first is the default.

    candidates: by the name of the model that they are compared with; their files follow in the workers' order.
    """

    def __init__(
        self, metadata: Mapping[str, Document], progress: Progress, candidates: Mapping[str, Document] | None = None
    ) -> None:
        self.by_name = {name: ServedModel(name, document) for name, document in metadata.items()}
        self.candidates = {
            name: ServedModel(f"{name} (candidate)", document) for name, document in (candidates or {}).items()
        }
        self.names = list(self.by_name)
        self.in_order = [*self.by_name.values(), *self.candidates.values()]
        self.progress = progress

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self.by_name.values())

    def __getitem__(self, name: str) -> ServedModel:
        return self.by_name[name]

    def index(self, model: ServedModel) -> int:
        """Return the index of a model or candidate in the workers' order."""
        return self.in_order.index(model)

    def apply(self, event: WorkerEvent) -> bool:
        """Follow the models of a worker; every change is reported once, however many workers there are.

        Returns whether another version of a model is in use from now on.
        """
        model = self.in_order[event.model_index]
        if event.kind == EventKind.MODEL_NOT_LOADED and event.reason != model.defect:
            model.defect = event.reason
            state = "the changed file is not in use, and the old model is" if model.identity else "cannot be loaded"
            message = f"{printable(model.name)}: {state}: {event.reason}"
            self.progress.warn(Event.MODEL_NOT_REPLACED, message, model=model.name)
        elif event.kind == EventKind.MODEL_LOADED:
            before, model.defect = model.identity, event.reason
            if before == event.description["model"]:
                return False
            model.metadata, model.description = event.metadata, event.description
            if before:
                message = f"{printable(model.name)}: the changed file is in use (model {model.identity}, not {before})."
                self.progress.report(Event.MODEL_REPLACED, message, model=model.name, identity=model.identity)
            return True
        return False
