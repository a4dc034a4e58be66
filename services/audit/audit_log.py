"""The audit log: a chain of entries in SQL that is only ever appended to, and the checkpoints on it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from sqlalchemy import Connection, Row, Select, insert, select

from services.audit.database import CHECKPOINTS, ENTRIES, Database
from services.audit.entries import GENESIS, Entry, chain, key_name, record_of, told
from services.audit.terms import Wanted, term_of, terms_of, words_of_name, words_sought
from shared.events import KeyCreated, KeyDetailsChanged, Record
from shared.ledger import BEGINNING, Checkpoint, checkpoint_at

_WALK_PAGE = 1_000
_FOUND_PAGE = 500
_INDEX_PAGE = 5_000
_KEYS_MOST = 100
_NAMINGS_MOST = 1_000
_NAMING = (term_of("type", KeyCreated.TYPE), term_of("type", KeyDetailsChanged.TYPE))
_COLUMNS = [ENTRIES.c[name] for name in Entry._fields]


class GapError(Exception):
    """The events do not follow the last entry: something between is left out."""

    def __init__(self, wanted: int, found: int) -> None:
        super().__init__(f"the audit log needs the event at position {wanted} next, and was given {found}")


class TooManyKeysError(Exception):
    """A name was sought that too many keys had."""

    def __init__(self) -> None:
        super().__init__(f"More than {_KEYS_MOST} keys were called so. Type more of the name.")


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which entries of a workspace; None takes all. Times are ms since 1970, `until` is not among them."""

    workspace: str
    key_id: str | None = None
    name: str | None = None  # words of a name that the key ever had
    actor: str | None = None  # an id or a label, whole
    type: str | None = None
    ip: str | None = None
    since: int | None = None
    until: int | None = None
    q: str | None = None  # words of what the event tells


class Page(NamedTuple):
    """Some entries, newest first, and the cursor of the next page if there is one."""

    entries: list[Entry]
    next_cursor: int | None


class Numbered(NamedTuple):
    """A checkpoint as it is kept: its sequence number, and the signed note."""

    sequence: int
    note: bytes


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
            is_behind = self._index_some(connection)
        while is_behind:  # an index that is new, or was cleared
            with self._database.writing() as connection:
                is_behind = self._index_some(connection)
        return len(new)

    def last(self) -> Checkpoint:
        """How far it got; the beginning, of an empty one."""
        entry = self.last_entry()
        return _checkpoint(entry) if entry else BEGINNING

    def last_entry(self) -> Entry | None:
        """The newest entry."""
        with self._database.reading() as connection:
            return _last_entry(connection)

    def search(self, filters: Filters, limit: int, cursor: int | None = None) -> Page:
        """The newest entries that match, before the cursor's position. Raises TooManyKeysError."""
        with self._database.reading() as connection:
            found = self._find(connection, filters, limit + 1, before=cursor)
            entries = _at(connection, found[:limit])[::-1]
        return Page(entries, entries[-1].position if len(found) > limit else None)

    def positions(self, filters: Filters, limit: int) -> list[int]:
        """Where the newest entries are that match, newest first. Raises TooManyKeysError."""
        with self._database.reading() as connection:
            return self._find(connection, filters, limit)

    def ascending(self, filters: Filters) -> Iterator[Entry]:
        """All entries that match, oldest first. Raises TooManyKeysError."""
        after = 0
        while True:
            with self._database.reading() as connection:
                found = self._find(connection, filters, _FOUND_PAGE, after=after, ascending=True)
                entries = _at(connection, found)
            if not entries:
                return
            yield from entries
            after = entries[-1].position

    def position_at(self, at: int) -> int:
        """The first position at a time or after it; of a time to come, the next."""
        with self._database.reading() as connection:
            return _position_at(connection, at)

    def times(self, positions: Iterable[int]) -> dict[int, int]:
        """When entries were written, in ms, by their positions."""
        times = select(ENTRIES.c.position, ENTRIES.c.at).where(ENTRIES.c.position.in_(set(positions)))
        with self._database.reading() as connection:
            return {row.position: row.at for row in connection.execute(times)}

    def walk(self, until: int, after: int | None = None) -> Iterator[Entry]:
        """All entries in the order of their positions, which nothing is assumed of, up to one."""
        page = select(*_COLUMNS).where(ENTRIES.c.position <= until).order_by(ENTRIES.c.position)
        while entries := self._page(page if after is None else page.where(ENTRIES.c.position > after)):
            yield from entries
            after = entries[-1].position

    def key_names(self, workspace: str, key_ids: Iterable[str]) -> dict[str, str]:
        """What keys of a workspace were called last, by their ids."""
        keys = tuple(term_of("key", key_id) for key_id in sorted(set(key_ids)))
        wanted: Wanted = ((term_of("workspace", workspace),), keys, _NAMING)
        if not keys:
            return {}
        with self._database.reading() as connection:
            found = self._database.index.find_few(connection, wanted)
            namings = _at(connection, found[-_NAMINGS_MOST:])
        # Of the same key, the newest comes last and stands.
        return {str(told(entry).key_id): name for entry in namings if (name := key_name(entry)) is not None}

    def checkpoints(self) -> list[Numbered]:
        """All checkpoints, by their numbers."""
        ordered = select(CHECKPOINTS.c.sequence, CHECKPOINTS.c.note).order_by(CHECKPOINTS.c.sequence)
        with self._database.reading() as connection:
            return [Numbered._make(row) for row in connection.execute(ordered)]

    def last_checkpoint(self) -> Numbered | None:
        """The newest checkpoint."""
        with self._database.reading() as connection:
            return _last_checkpoint(connection)

    def add_checkpoint(self, make: Callable[[Entry | None, Numbered | None], bytes | None]) -> bytes | None:
        """Adds the note that is made of the last entry and the last checkpoint, if one is, and gives it.

        Nobody else writes meanwhile.
        """
        with self._database.writing() as connection:
            last = _last_checkpoint(connection)
            note = make(_last_entry(connection), last)
            if note is not None:
                sequence = last.sequence + 1 if last else 1
                connection.execute(insert(CHECKPOINTS), {"sequence": sequence, "note": note})
            return note

    def reindex(self, progress: Callable[[int, int], None]) -> None:
        """Makes anew what the filters search. `progress` is told how many entries are in, and of how many."""
        with self._database.writing() as connection:
            self._database.index.clear(connection)
        is_behind = True
        while is_behind:
            with self._database.writing() as connection:
                is_behind = self._index_some(connection)
                progress(self._database.index.last(connection), _end(connection)[0])

    def _index_some(self, connection: Connection) -> bool:
        """Takes up entries that the index lacks; gives whether it may lack more."""
        last = self._database.index.last(connection)
        lacking = select(ENTRIES.c.position, ENTRIES.c.record).where(ENTRIES.c.position > last)
        rows = connection.execute(lacking.order_by(ENTRIES.c.position).limit(_INDEX_PAGE)).all()
        if rows:
            self._database.index.add(connection, ((row.position, _terms(row.record)) for row in rows))
        return len(rows) == _INDEX_PAGE

    def _find(
        self,
        connection: Connection,
        filters: Filters,
        limit: int,
        *,
        after: int = 0,
        before: int | None = None,
        ascending: bool = False,
    ) -> list[int]:
        """Where the first entries are that match, between two positions."""
        # The ledger's times never go back, so a time is a position.
        start = (
            after + 1 if filters.since is None else max(after + 1, _position_at(connection, filters.since))
        )
        stop = _end(connection)[0] + 1 if before is None else before
        if filters.until is not None:
            stop = min(stop, _position_at(connection, filters.until))
        wanted = (*_wanted(filters), *self._keys_called(connection, filters))
        if start >= stop or () in wanted:
            return []
        find = self._database.index.find
        return find(connection, wanted, range(start, stop), limit, ascending=ascending)

    def _keys_called(self, connection: Connection, filters: Filters) -> Wanted:
        """The keys of the workspace that ever had the name, if one is sought."""
        if filters.name is None:
            return ()
        wanted: Wanted = ((term_of("workspace", filters.workspace),), *words_of_name(filters.name))
        namings = self._newest(connection, wanted, _NAMINGS_MOST)
        keys = {key_id for entry in namings if (key_id := told(entry).key_id)}
        if len(keys) > _KEYS_MOST:
            raise TooManyKeysError
        return (tuple(term_of("key", key_id) for key_id in sorted(keys)),)

    def _newest(self, connection: Connection, wanted: Wanted, limit: int) -> list[Entry]:
        """The newest entries that have what is wanted, oldest of them first."""
        if () in wanted:
            return []
        everywhere = range(1, _end(connection)[0] + 1)
        return _at(connection, self._database.index.find(connection, wanted, everywhere, limit))

    def _page(self, of: Select[*tuple[object, ...]]) -> list[Entry]:
        with self._database.reading() as connection:
            return [_entry(row) for row in connection.execute(of.limit(_WALK_PAGE))]


def _wanted(filters: Filters) -> Wanted:
    """The one place to add a filter."""
    compared = {
        "workspace": filters.workspace,
        "key": filters.key_id,
        "actor": filters.actor,
        "type": filters.type,
        "address": filters.ip,
    }
    wanted = tuple((term_of(kind, value),) for kind, value in compared.items() if value is not None)
    return wanted if filters.q is None else (*wanted, *words_sought(filters.q))


def _end(connection: Connection) -> tuple[int, bytes]:
    newest = select(ENTRIES.c.position, ENTRIES.c.entry_hash).order_by(ENTRIES.c.position.desc()).limit(1)
    row = connection.execute(newest).first()
    return (row.position, row.entry_hash) if row else (0, GENESIS)


def _last_entry(connection: Connection) -> Entry | None:
    row = connection.execute(select(*_COLUMNS).order_by(ENTRIES.c.position.desc()).limit(1)).first()
    return _entry(row) if row else None


def _last_checkpoint(connection: Connection) -> Numbered | None:
    newest = select(CHECKPOINTS.c.sequence, CHECKPOINTS.c.note).order_by(CHECKPOINTS.c.sequence.desc())
    row = connection.execute(newest.limit(1)).first()
    return Numbered(row.sequence, row.note) if row else None


def _position_at(connection: Connection, at: int) -> int:
    first = select(ENTRIES.c.position).where(ENTRIES.c.at >= at).order_by(ENTRIES.c.at, ENTRIES.c.position)
    position = connection.execute(first.limit(1)).scalar()
    return _end(connection)[0] + 1 if position is None else position


def _at(connection: Connection, positions: Sequence[int]) -> list[Entry]:
    """The entries at some positions, in order."""
    entries = select(*_COLUMNS).where(ENTRIES.c.position.in_(positions)).order_by(ENTRIES.c.position)
    return [_entry(row) for row in connection.execute(entries)]


def _terms(sealed: object) -> set[str]:
    record = record_of(sealed)
    return terms_of(record) if record else set()


def _entry(row: Row[*tuple[object, ...]]) -> Entry:
    return Entry._make(cast("Iterable[object]", row))


def _checkpoint(entry: Entry) -> Checkpoint:
    record = record_of(entry.record)
    return Checkpoint(entry.position, checkpoint_at([record]).event_id if record else "")
