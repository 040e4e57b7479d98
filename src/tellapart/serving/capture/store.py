"""The capture store: images for labelling, and hourly counts of predictions, in SQLite, or PostgreSQL for many servers.

It holds no address, name or time of day of a client: only images without metadata, their predictions, and why they were
captured.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from tellapart.errors import ServeError
from tellapart.io.database_url import database_url, redact_url

_TIMEOUT = 5  # seconds for the database to respond
_ATTEMPTS = 5
_METADATA = sql.MetaData()
_IMAGES = sql.Table(
    "images",
    _METADATA,
    sql.Column("id", sql.String(64), primary_key=True),  # the SHA-256 of the content
    sql.Column("number", sql.BigInteger, nullable=False),  # in the order of capture
    sql.Column("content", sql.LargeBinary, nullable=False),
    sql.Column("size", sql.BigInteger, nullable=False),
    sql.Column("model", sql.Text, nullable=False),
    sql.Column("identity", sql.String(16), nullable=False),  # of the model's file
    sql.Column("predicted_label", sql.Text, nullable=False),
    sql.Column("probability", sql.Float, nullable=False),
    sql.Column("reason", sql.String(20), nullable=False),
    sql.Column("label", sql.Text),
)
_COUNTS = sql.Table(
    "counts",
    _METADATA,
    sql.Column("hour", sql.BigInteger, primary_key=True, autoincrement=False),  # since 1970
    sql.Column("model", sql.Text, primary_key=True),
    sql.Column("kind", sql.String(20), primary_key=True),  # class or distance
    sql.Column("value", sql.Text, primary_key=True),
    sql.Column("count", sql.BigInteger, nullable=False),
)
_COMPARISONS = sql.Table(
    "comparisons",
    _METADATA,
    sql.Column("id", sql.String(64), primary_key=True),  # of the image
    sql.Column("identity", sql.String(16), primary_key=True),
    sql.Column("candidate", sql.String(16), primary_key=True),  # the identity of the candidate's file
    sql.Column("predicted_label", sql.Text, nullable=False),
    sql.Column("candidate_label", sql.Text, nullable=False),
)
_DESCRIPTION = [_IMAGES.c[name] for name in ("id", "model", "predicted_label", "probability", "reason", "label")]

CountKey = tuple[int, str, str, str]  # hour, model, kind, value


@dataclass(frozen=True)
class CapturedPrediction:
    """The prediction for a captured image. identity: of the model's file. reason: why the image is captured."""

    model: str
    identity: str
    predicted_label: str
    probability: float
    reason: str


@dataclass(frozen=True)
class Disagreement:
    """Two models, by the identities of their files, and the different classes that they predict for an image."""

    identity: str
    candidate: str
    predicted_label: str
    candidate_label: str


@dataclass(frozen=True)
class StoreLimits:
    """How many images, and bytes of images, are stored; beyond, the oldest without a label are deleted."""

    images: int = 2000
    total_bytes: int = 2**30


class CaptureStore:
    """The images and counts in one database; its methods block, and may be called from any thread."""

    def __init__(self, where: str, limits: StoreLimits | None = None) -> None:
        """Open or create the store in a folder, or in the database at a URL postgresql://...

        Raises `ServeError` if it cannot be opened.
        """
        self.limits = limits or StoreLimits()
        try:
            self.engine = _create_engine(database_url(where, "captures.sqlite"))
            with self.engine.begin() as connection:
                if self.engine.dialect.name == "sqlite":
                    connection.exec_driver_sql("PRAGMA journal_mode=WAL")
                _METADATA.create_all(connection)
                connection.execute(sql.select(_IMAGES.c.identity).limit(1))  # fails in a store of an older version
        except (SQLAlchemyError, ArgumentError, NoSuchModuleError, ImportError, OSError) as error:
            reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
            raise ServeError(
                f"Cannot open the capture store {redact_url(where)}: {reason}; name a folder, or a database as "
                "postgresql://..."
            ) from error

    def add(self, content: bytes, prediction: CapturedPrediction) -> bool:
        """Store an image; returns whether it is new and there was room."""
        image_id = hashlib.sha256(content).hexdigest()
        try:
            with self.engine.begin() as connection:
                self._make_room(connection, len(content))
                last = connection.scalar(sql.select(sql.func.max(_IMAGES.c.number))) or 0
                row = {
                    "id": image_id,
                    "number": last + 1,
                    "content": content,
                    "size": len(content),
                    **asdict(prediction),
                }
                connection.execute(_IMAGES.insert().values(**row))
            return True
        except (IntegrityError, _StorageFullError):
            return False

    def add_disagreement(self, content: bytes, disagreement: Disagreement) -> None:
        """Store that two models disagree on an image; nothing happens if that is known, or the image is not stored."""
        row = {"id": hashlib.sha256(content).hexdigest(), **asdict(disagreement)}
        with suppress(IntegrityError), self.engine.begin() as connection:
            if connection.scalar(sql.select(_IMAGES.c.number).where(_IMAGES.c.id == row["id"])) is not None:
                connection.execute(_COMPARISONS.insert().values(**row))

    def list_labelled_disagreements(self, identity: str, candidate: str) -> list[tuple[str, str, str]]:
        """Return the label, the predicted class and that of the candidate, for each labelled image they disagree on."""
        of_both = (_COMPARISONS.c.identity == identity) & (_COMPARISONS.c.candidate == candidate)
        rows = (
            sql.select(_IMAGES.c.label, _COMPARISONS.c.predicted_label, _COMPARISONS.c.candidate_label)
            .join_from(_COMPARISONS, _IMAGES, _COMPARISONS.c.id == _IMAGES.c.id)
            .where(of_both, _IMAGES.c.label.is_not(None))
        )
        with self.engine.connect() as connection:
            return [(label, predicted, other) for label, predicted, other in connection.execute(rows)]

    def list_labelled_predictions(self, identity: str) -> list[tuple[str, float, bool]]:
        """Return reason, probability, and whether the prediction is right, for each labelled image of a model."""
        columns = (_IMAGES.c.reason, _IMAGES.c.probability, _IMAGES.c.predicted_label == _IMAGES.c.label)
        rows = sql.select(*columns).where(_IMAGES.c.identity == identity, _IMAGES.c.label.is_not(None))
        with self.engine.connect() as connection:
            return [(reason, probability, bool(right)) for reason, probability, right in connection.execute(rows)]

    def list_unlabelled(self, limit: int) -> list[dict[str, Any]]:
        """Return the newest images without a label, as in `CapturedImage`."""
        unlabelled = sql.select(*_DESCRIPTION).where(_IMAGES.c.label.is_(None))
        with self.engine.connect() as connection:
            rows = connection.execute(unlabelled.order_by(_IMAGES.c.number.desc()).limit(limit))
            return [dict(row) for row in rows.mappings()]

    def read_image(self, image_id: str) -> bytes | None:
        """Return the content of an image, None if there is none of this ID."""
        with self.engine.connect() as connection:
            content = connection.scalar(sql.select(_IMAGES.c.content).where(_IMAGES.c.id == image_id))
        return None if content is None else bytes(content)

    def set_label(self, image_id: str, label: str | None) -> bool:
        """Label an image, or remove its label; returns whether the image exists."""
        with self.engine.begin() as connection:
            update = _IMAGES.update().where(_IMAGES.c.id == image_id).values(label=label)
            return connection.execute(update).rowcount == 1

    def delete(self, image_id: str) -> bool:
        """Delete an image; returns whether it existed."""
        with self.engine.begin() as connection:
            return _delete_image(connection, image_id)

    def count_images(self) -> dict[str, int]:
        """Return the number of labelled and of unlabelled images."""
        with self.engine.connect() as connection:
            total, labelled = connection.execute(
                sql.select(sql.func.count(), sql.func.count(_IMAGES.c.label)).select_from(_IMAGES)
            ).one()
        return {"labelled": labelled, "unlabelled": total - labelled}

    def iter_labelled(self) -> Iterator[tuple[str, str, bytes]]:
        """Yield the ID, label and content of each labelled image, in the order of capture."""
        labelled = sql.select(_IMAGES.c.id, _IMAGES.c.label).where(_IMAGES.c.label.is_not(None))
        with self.engine.connect() as connection:
            rows = connection.execute(labelled.order_by(_IMAGES.c.number)).all()
        for image_id, label in rows:
            content = self.read_image(image_id)
            if content is not None:  # else it was deleted meanwhile
                yield image_id, label, content

    def add_counts(self, counts: Mapping[CountKey, int]) -> None:
        """Add to the hourly counts, all or none of them."""
        for attempt in range(_ATTEMPTS):
            try:
                with self.engine.begin() as connection:
                    for key, count in sorted(counts.items()):
                        _add_count(connection, key, count)
                return
            except IntegrityError:  # another server has inserted the same row between the two statements
                if attempt == _ATTEMPTS - 1:
                    raise

    def delete_counts(self, kind: str, before: int) -> None:
        """Delete the counts of a kind before an hour."""
        with self.engine.begin() as connection:
            connection.execute(_COUNTS.delete().where(_COUNTS.c.kind == kind, _COUNTS.c.hour < before))

    def sum_counts(self, model: str, kind: str, since: int) -> dict[str, int]:
        """Return the total count of each value since an hour."""
        totals = (
            sql.select(_COUNTS.c.value, sql.func.sum(_COUNTS.c.count))
            .where(_COUNTS.c.model == model, _COUNTS.c.kind == kind, _COUNTS.c.hour >= since)
            .group_by(_COUNTS.c.value)
        )
        with self.engine.connect() as connection:
            return {value: int(count) for value, count in connection.execute(totals)}

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()

    def _make_room(self, connection: sql.Connection, size: int) -> None:
        """Delete the oldest unlabelled images until there is room; raises `_StorageFullError` if that fails."""
        if size > self.limits.total_bytes:
            raise _StorageFullError
        while True:
            total = sql.select(sql.func.count(), sql.func.coalesce(sql.func.sum(_IMAGES.c.size), 0))
            count, stored_bytes = connection.execute(total).one()
            if count < self.limits.images and stored_bytes + size <= self.limits.total_bytes:
                return
            oldest = sql.select(_IMAGES.c.id).where(_IMAGES.c.label.is_(None)).order_by(_IMAGES.c.number).limit(1)
            image_id = connection.scalar(oldest)
            if image_id is None:
                raise _StorageFullError
            _delete_image(connection, image_id)


class _StorageFullError(Exception):
    """There is no room, and no unlabelled image to delete."""


def _delete_image(connection: sql.Connection, image_id: str) -> bool:
    """Delete an image and what is known of it; returns whether it existed."""
    connection.execute(_COMPARISONS.delete().where(_COMPARISONS.c.id == image_id))
    return connection.execute(_IMAGES.delete().where(_IMAGES.c.id == image_id)).rowcount == 1


def _add_count(connection: sql.Connection, key: CountKey, count: int) -> None:
    columns = dict(zip(("hour", "model", "kind", "value"), key, strict=True))
    is_same = sql.and_(*(_COUNTS.c[name] == value for name, value in columns.items()))
    updated = connection.execute(_COUNTS.update().where(is_same).values(count=_COUNTS.c.count + count))
    if not updated.rowcount:
        connection.execute(_COUNTS.insert().values(**columns, count=count))


def _create_engine(url: sql.URL) -> sql.Engine:
    """Return the engine of a database, with timeouts for one that does not respond."""
    timeouts = {
        "connect_timeout": _TIMEOUT,
        "tcp_user_timeout": 1000 * _TIMEOUT,
        "options": f"-c statement_timeout={1000 * _TIMEOUT}",
    }
    return sql.create_engine(url, pool_pre_ping=True, connect_args=timeouts if url.drivername != "sqlite" else {})
