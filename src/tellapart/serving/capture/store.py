"""Pictures kept for labelling, and what was seen hour by hour: in SQLite, or in PostgreSQL for many servers.

No address, name or time of day of those who asked is kept: a picture without its metadata, what was said of it, and why
it is here.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from tellapart.errors import CannotServe
from tellapart.io.database import database_url, shown

_PATIENCE = 5  # seconds for the database to answer
_TRIES = 5
_METADATA = sql.MetaData()
_PICTURES = sql.Table(
    "pictures",
    _METADATA,
    sql.Column("id", sql.String(64), primary_key=True),  # the SHA-256 of the content
    sql.Column("number", sql.BigInteger, nullable=False),  # in the order in which they came
    sql.Column("content", sql.LargeBinary, nullable=False),
    sql.Column("size", sql.BigInteger, nullable=False),
    sql.Column("model", sql.Text, nullable=False),
    sql.Column("guess", sql.Text, nullable=False),
    sql.Column("probability", sql.Float, nullable=False),
    sql.Column("reason", sql.String(20), nullable=False),
    sql.Column("label", sql.Text),
)
_SEEN = sql.Table(
    "seen",
    _METADATA,
    sql.Column("hour", sql.BigInteger, primary_key=True, autoincrement=False),  # since 1970
    sql.Column("model", sql.Text, primary_key=True),
    sql.Column("what", sql.String(20), primary_key=True),
    sql.Column("value", sql.Text, primary_key=True),
    sql.Column("count", sql.BigInteger, nullable=False),
)
_ABOUT = [_PICTURES.c[name] for name in ("id", "model", "guess", "probability", "reason", "label")]

Seen = tuple[int, str, str, str]  # hour, model, what (class or distance), value


@dataclass(frozen=True)
class Bounds:
    """How much is kept: pictures and their bytes; beyond, the oldest one without a label makes room."""

    pictures: int = 2000
    bytes_kept: int = 2**30


class Collection:
    """The pictures and counts in one database; its methods block, and may be called from any thread."""

    def __init__(self, where: str, bounds: Bounds | None = None) -> None:
        """Open or begin the collection in a folder, or in the database at a URL `postgresql://`.

        Raises `CannotServe` if it cannot be opened.
        """
        self.bounds = bounds or Bounds()
        try:
            self.engine = _engine(database_url(where, "collection.sqlite"))
            with self.engine.begin() as connection:
                if self.engine.dialect.name == "sqlite":
                    connection.exec_driver_sql("PRAGMA journal_mode=WAL")
                _METADATA.create_all(connection)
        except (SQLAlchemyError, ArgumentError, NoSuchModuleError, ImportError, OSError) as error:
            reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
            raise CannotServe(
                f"Cannot keep pictures in {shown(where)}: {reason}; name a folder, or a database as postgresql://..."
            ) from error

    def keep(self, content: bytes, model: str, guess: str, probability: float, reason: str) -> bool:
        """Keep a picture; returns whether there was room, and it was not there before."""
        identity = hashlib.sha256(content).hexdigest()
        try:
            with self.engine.begin() as connection:
                self._make_room(connection, len(content))
                last = connection.scalar(sql.select(sql.func.max(_PICTURES.c.number))) or 0
                row = {"id": identity, "number": last + 1, "content": content, "size": len(content), "model": model}
                about = {"guess": guess, "probability": probability, "reason": reason}
                connection.execute(_PICTURES.insert().values(**row, **about))
            return True
        except (IntegrityError, _NoRoom):
            return False

    def unlabelled(self, count: int) -> list[dict[str, Any]]:
        """Return what is known of the newest pictures without a label."""
        query = sql.select(*_ABOUT).where(_PICTURES.c.label.is_(None)).order_by(_PICTURES.c.number.desc()).limit(count)
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def content(self, identity: str) -> bytes | None:
        """Return a picture, or None if there is none of this identity."""
        with self.engine.connect() as connection:
            found = connection.scalar(sql.select(_PICTURES.c.content).where(_PICTURES.c.id == identity))
        return None if found is None else bytes(found)

    def label(self, identity: str, label: str | None) -> bool:
        """Give a picture a label, or take it away; returns whether the picture is there."""
        with self.engine.begin() as connection:
            query = _PICTURES.update().where(_PICTURES.c.id == identity).values(label=label)
            return connection.execute(query).rowcount == 1

    def drop(self, identity: str) -> bool:
        """Keep a picture no more; returns whether it was there."""
        with self.engine.begin() as connection:
            return connection.execute(_PICTURES.delete().where(_PICTURES.c.id == identity)).rowcount == 1

    def totals(self) -> dict[str, int]:
        """Return how many pictures have a label, and how many have none."""
        with self.engine.connect() as connection:
            every, labelled = connection.execute(
                sql.select(sql.func.count(), sql.func.count(_PICTURES.c.label)).select_from(_PICTURES)
            ).one()
        return {"labelled": labelled, "unlabelled": every - labelled}

    def labelled(self) -> Iterator[tuple[str, str, bytes]]:
        """Yield the identity, label and content of each picture that has a label, in the order in which they came."""
        query = sql.select(_PICTURES.c.id, _PICTURES.c.label).where(_PICTURES.c.label.is_not(None))
        with self.engine.connect() as connection:
            known = connection.execute(query.order_by(_PICTURES.c.number)).all()
        for identity, label in known:
            content = self.content(identity)
            if content is not None:  # it may have been dropped meanwhile
                yield identity, label, content

    def add_seen(self, counts: Mapping[Seen, int]) -> None:
        """Add to what was seen, all of it or nothing."""
        for attempt in range(_TRIES):
            try:
                with self.engine.begin() as connection:
                    for (hour, model, what, value), count in sorted(counts.items()):
                        key = {"hour": hour, "model": model, "what": what, "value": value}
                        same = sql.and_(*(_SEEN.c[name] == each for name, each in key.items()))
                        added = connection.execute(_SEEN.update().where(same).values(count=_SEEN.c.count + count))
                        if not added.rowcount:
                            connection.execute(_SEEN.insert().values(**key, count=count))
                return
            except IntegrityError:  # another server has inserted the same row between our two statements
                if attempt == _TRIES - 1:
                    raise

    def seen(self, model: str, what: str, since: int) -> dict[str, int]:
        """Return how often each value was seen from an hour on."""
        query = (
            sql.select(_SEEN.c.value, sql.func.sum(_SEEN.c.count))
            .where(_SEEN.c.model == model, _SEEN.c.what == what, _SEEN.c.hour >= since)
            .group_by(_SEEN.c.value)
        )
        with self.engine.connect() as connection:
            return {value: int(count) for value, count in connection.execute(query)}

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()

    def _make_room(self, connection: sql.Connection, size: int) -> None:
        """Drop the oldest pictures without a label until there is room; raises `_NoRoom`, and then none is dropped."""
        if size > self.bounds.bytes_kept:
            raise _NoRoom
        while True:
            total = sql.select(sql.func.count(), sql.func.coalesce(sql.func.sum(_PICTURES.c.size), 0))
            count, held = connection.execute(total).one()
            if count < self.bounds.pictures and held + size <= self.bounds.bytes_kept:
                return
            oldest = sql.select(_PICTURES.c.id).where(_PICTURES.c.label.is_(None)).order_by(_PICTURES.c.number).limit(1)
            identity = connection.scalar(oldest)
            if identity is None:
                raise _NoRoom
            connection.execute(_PICTURES.delete().where(_PICTURES.c.id == identity))


class _NoRoom(Exception):
    """Too much has a label."""


def _engine(url: sql.URL) -> sql.Engine:
    """Return the engine of a database; one that does not answer is given up after some seconds."""
    milliseconds = 1000 * _PATIENCE
    patient = {
        "connect_timeout": _PATIENCE,
        "tcp_user_timeout": milliseconds,
        "options": f"-c statement_timeout={milliseconds}",
    }
    return sql.create_engine(url, pool_pre_ping=True, connect_args=patient if url.drivername != "sqlite" else {})
