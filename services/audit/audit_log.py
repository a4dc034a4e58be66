"""The audit log: a chain of entries in SQL that is only ever appended to."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    LargeBinary,
    Row,
    Text,
    and_,
    case,
    collate,
    false,
    func,
    insert,
    literal,
    or_,
    select,
)
from sqlalchemy import cast as sql_cast

from services.audit.database import ENTRIES, Database
from services.audit.entries import GENESIS, Entry, chain, column, key_name, record_of
from shared.events import KeyCreated, Record
from shared.ledger import BEGINNING, Checkpoint, checkpoint_at

_WALK_PAGE = 1000
_COLUMNS = [ENTRIES.c[name] for name in Entry._fields]


class GapError(Exception):
    """The events do not follow the last entry: something between is left out."""

    def __init__(self, wanted: int, found: int) -> None:
        super().__init__(f"the audit log needs the event at position {wanted} next, and was given {found}")


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which entries of a workspace; None takes all. Times are ms since 1970, `until` is not among them."""

    workspace: str
    key_id: str | None = None
    actor: str | None = None  # an id or a label, whole
    type: str | None = None
    since: int | None = None
    until: int | None = None
    q: str | None = None  # text in the record; of A-Z and a-z the case does not count


class Page(NamedTuple):
    """Some entries, newest first, and the cursor of the next page if there is one."""

    entries: list[Entry]
    next_cursor: int | None


class AuditLog:
    """Append, search and walk. It connects when it is first used; every method raises AuditDatabaseError."""

    def __init__(self, url: str) -> None:
        """`url` is as SQLAlchemy takes it: SQLite or PostgreSQL."""
        self._database = Database(url)

    def close(self) -> None:
        """Closes the connections."""
        self._database.close()

    def append(self, records: Sequence[Record]) -> int:
        """Appends those of the events that are not there yet, all or none, and gives how many.

        They are in order. Any number of writers may append the same events at once. Raises GapError.
        """
        with self._database.writing() as connection:
            position, previous_hash = _end(connection)
            new = [record for record in records if record.position > position]
            for wanted, record in enumerate(new, position + 1):
                if record.position != wanted:
                    raise GapError(wanted, record.position)
            if new:
                entries = chain(new, previous_hash)
                connection.execute(insert(ENTRIES), [entry._asdict() for entry in entries])
            return len(new)

    def last(self) -> Checkpoint:
        """How far it got; the beginning, of an empty one."""
        newest = select(*_COLUMNS).order_by(ENTRIES.c.position.desc()).limit(1)
        with self._database.reading() as connection:
            row = connection.execute(newest).first()
        return _checkpoint(_entry(row)) if row else BEGINNING

    def search(self, filters: Filters, limit: int, cursor: int | None = None) -> Page:
        """The newest entries that match, before the cursor's position."""
        conditions = [*_conditions(filters, self._database.dialect)]
        if cursor is not None:
            conditions.append(ENTRIES.c.position < cursor)
        newest_first = select(*_COLUMNS).where(*conditions).order_by(ENTRIES.c.position.desc())
        with self._database.reading() as connection:
            rows = connection.execute(newest_first.limit(limit + 1)).all()
        entries = [_entry(row) for row in rows[:limit]]
        return Page(entries, entries[-1].position if len(rows) > limit else None)

    def walk(self, until: int) -> Iterator[Entry]:
        """All entries in the order of their positions, which nothing is assumed of, up to one."""
        after: int | None = None
        while rows := self._following(after, until):
            yield from map(_entry, rows)
            after = rows[-1].position

    def key_names(self, workspace: str, key_ids: Iterable[str]) -> dict[str, str]:
        """The names that keys of a workspace were created with."""
        created = select(*_COLUMNS).where(
            ENTRIES.c.workspace == workspace,
            ENTRIES.c.key_id.in_(set(key_ids)),
            ENTRIES.c.type == KeyCreated.TYPE,
        )
        with self._database.reading() as connection:
            entries = [_entry(row) for row in connection.execute(created)]
        return {str(entry.key_id): name for entry in entries if (name := key_name(entry))}

    def _following(self, after: int | None, until: int) -> Sequence[Row[*tuple[object, ...]]]:
        page = select(*_COLUMNS).where(ENTRIES.c.position <= until).order_by(ENTRIES.c.position)
        if after is not None:
            page = page.where(ENTRIES.c.position > after)
        with self._database.reading() as connection:
            return connection.execute(page.limit(_WALK_PAGE)).all()


def _end(connection: Connection) -> tuple[int, bytes]:
    newest = select(ENTRIES.c.position, ENTRIES.c.entry_hash).order_by(ENTRIES.c.position.desc()).limit(1)
    row = connection.execute(newest).first()
    return (row.position, row.entry_hash) if row else (0, GENESIS)


def _entry(row: Row[*tuple[object, ...]]) -> Entry:
    return Entry._make(cast("Iterable[object]", row))


def _checkpoint(entry: Entry) -> Checkpoint:
    # The id is the record's, for a column holds an odd one in another form.
    record = record_of(entry.record)
    return Checkpoint(entry.position, checkpoint_at([record]).event_id if record else "")


def _conditions(filters: Filters, dialect: str) -> Iterator[ColumnElement[bool]]:
    """The one place to add a filter."""
    entries = ENTRIES.c
    yield entries.workspace == column(filters.workspace)
    if filters.key_id is not None:
        yield entries.key_id == column(filters.key_id)
    if filters.actor is not None:
        actor = column(filters.actor)
        yield or_(entries.actor_id == actor, entries.actor_label == actor)
    if filters.type is not None:
        yield entries.type == column(filters.type)
    # The ledger's times never go back, so a time is a position, and the walk along those needs no sorting.
    if filters.since is not None:
        first = (
            select(entries.position).where(entries.at >= filters.since).order_by(entries.at, entries.position)
        )
        yield entries.position >= first.limit(1).scalar_subquery()
    if filters.until is not None:
        last = select(entries.position).where(entries.at < filters.until)
        last = last.order_by(entries.at.desc(), entries.position.desc())
        yield entries.position <= last.limit(1).scalar_subquery()
    if filters.q is not None:
        yield _contains(filters.q, dialect)


def _contains(text: str, dialect: str) -> ColumnElement[bool]:
    """Whether a record holds a text, as JSON writes it."""
    # bytes.lower() and both databases here fold A-Z alone.
    wanted = msgspec.json.encode(text)[1:-1].lower()
    if dialect == "sqlite":
        return func.instr(func.lower(sql_cast(ENTRIES.c.record, Text)), wanted.decode()) > 0
    # LATIN1 reads a byte as a character, so it takes records that are not UTF-8; but nothing takes U+0000.
    letters = func.lower(collate(func.convert_from(ENTRIES.c.record, "LATIN1"), "C"))
    found = func.strpos(letters, wanted.decode("latin-1")) > 0
    readable = func.position(literal(b"\x00", LargeBinary).op("IN")(ENTRIES.c.record)) == 0
    return case((and_(readable), found), else_=false())
