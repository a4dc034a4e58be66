"""Queries for entries, within a transaction of the audit log's database."""

from collections.abc import Iterable, Sequence
from typing import cast

from sqlalchemy import Connection, Row, select

from services.audit.log.entry import GENESIS, Entry
from services.audit.log.schema import ENTRIES

COLUMNS = [ENTRIES.c[name] for name in Entry._fields]


def entry_of_row(row: Row[*tuple[object, ...]]) -> Entry:
    return Entry._make(cast("Iterable[object]", row))


def end(connection: Connection) -> tuple[int, bytes]:
    """The position and the hash of the last entry."""
    newest = select(ENTRIES.c.position, ENTRIES.c.entry_hash).order_by(ENTRIES.c.position.desc()).limit(1)
    row = connection.execute(newest).first()
    return (row.position, row.entry_hash) if row else (0, GENESIS)


def last_entry(connection: Connection) -> Entry | None:
    """The last entry."""
    row = connection.execute(select(*COLUMNS).order_by(ENTRIES.c.position.desc()).limit(1)).first()
    return entry_of_row(row) if row else None


def entries_at(connection: Connection, positions: Sequence[int]) -> list[Entry]:
    """The entries at these positions, in order."""
    entries = select(*COLUMNS).where(ENTRIES.c.position.in_(positions)).order_by(ENTRIES.c.position)
    return [entry_of_row(row) for row in connection.execute(entries)]


def position_at(connection: Connection, at: int) -> int:
    """The first position at or after a time. For a later time, the position after the last entry."""
    first = select(ENTRIES.c.position).where(ENTRIES.c.at >= at).order_by(ENTRIES.c.at, ENTRIES.c.position)
    position = connection.execute(first.limit(1)).scalar()
    return end(connection)[0] + 1 if position is None else position
