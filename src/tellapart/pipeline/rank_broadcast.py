"""What rank 0 of a distributed run sends to the other ranks: the prepared run before training, and the run at the end.

Only JSON and arrays are sent, never pickled objects.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tellapart.classifier.load import load_classifier_bytes
from tellapart.data.audit import Audit
from tellapart.data.dataset import SPLITS
from tellapart.data.sources import Source, load_dataset
from tellapart.data.split import Splits
from tellapart.pipeline.prepare import PreparedRun
from tellapart.progress import Progress
from tellapart.recipe.recipe import from_table
from tellapart.runs.run import Run
from tellapart.training.execution.distributed import Ranks
from tellapart.training.execution.exchange import decode_arrays, encode_arrays

_AUDIT_ARRAYS = ("uniform", "heights", "widths", "grey", "dim", "digests", "outlines")


def share_prepared(ranks: Ranks, source: Source, prepare: Callable[[], PreparedRun]) -> PreparedRun:
    """Return the prepared run on all ranks; only rank 0 calls `prepare`, the others load the dataset themselves.

    On the other ranks, the audit has no duplicates and no unreadable files, which only the report needs.
    """
    if ranks.world_size == 1:
        return prepare()
    prepared = prepare() if ranks.is_first else None
    values = ranks.broadcast(lambda: _to_json(prepared) if prepared else {})
    arrays = decode_arrays(ranks.broadcast_bytes(lambda: _encode(prepared) if prepared else b""))
    if prepared:
        return prepared
    audit = Audit(
        dataset=load_dataset(source, Progress()),
        unreadable=(),
        exact_duplicates=(),
        near_duplicates=(),
        possible_duplicates=(),
        fingerprint=values["fingerprint"],
        started_at=values["started_at"],
        scene_images=values["scene_images"],
        **{name: arrays[name] for name in _AUDIT_ARRAYS},
    )
    return PreparedRun(
        audit=audit,
        splits=Splits(arrays["train"], arrays["validation"], arrays["test"], values["rule"]),
        recipe=from_table(values["recipe"]),
        identity=values["identity"],
        directory=Path(values["directory"]),
        finished=values["finished"],
    )


def broadcast_run(ranks: Ranks, run: Run | None, directory: Path) -> Run:
    """Return the run of rank 0 on all ranks; run: None on the other ranks."""
    if run and ranks.world_size == 1:
        return run
    content = ranks.broadcast_bytes(lambda: run.classifier.to_bytes() if run else b"")
    results: dict[str, Any] = ranks.broadcast(lambda: {"metrics": run.metrics, "history": run.history} if run else {})
    return run or Run(load_classifier_bytes(content, "the classifier of rank 0"), **results, directory=directory)


def _to_json(prepared: PreparedRun) -> dict[str, Any]:
    return {
        "fingerprint": prepared.audit.fingerprint,
        "started_at": prepared.audit.started_at,
        "scene_images": prepared.audit.scene_images,
        "rule": prepared.splits.rule,
        "recipe": prepared.recipe.to_table(),
        "identity": prepared.identity,
        "directory": str(prepared.directory),
        "finished": prepared.finished,
    }


def _encode(prepared: PreparedRun) -> bytes:
    audit_arrays = {name: getattr(prepared.audit, name) for name in _AUDIT_ARRAYS}
    split_arrays = dict(zip(SPLITS, prepared.splits.as_tuple(), strict=True))
    return encode_arrays(**audit_arrays, **split_arrays)
