"""The audit log: a chain of entries in SQL that is only ever appended to, and the checkpoints on it."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import URL, Connection, Select, insert, select

from services.audit.log.database import CHECKPOINTS, ENTRIES, Database
from services.audit.log.entry import Entry, chain, record_of
from services.audit.log.rows import COLUMNS, end, entry_of_row, last_entry
from services.audit.log.search import Search
from services.audit.log.terms import terms_of
from shared.eventstore.envelope import Record
from shared.eventstore.ledger import BEGINNING, Checkpoint, checkpoint_at

_WALK_PAGE = 1_000
_INDEX_PAGE = 5_000


class GapError(Exception):
    """The events do not follow the last entry: something between is left out."""

    def __init__(self, wanted: int, found: int) -> None:
        super().__init__(f"the audit log needs the event at position {wanted} next, and was given {found}")
        self.wanted = wanted


class StoredCheckpoint(NamedTuple):
    """A checkpoint as it is kept: its sequence number, and the signed note."""

    sequence: int
    note: bytes


class AuditLog:
    """Append and walk. It connects when it is first used; every method raises AuditDatabaseError."""

    def __init__(self, url: str | URL, *, read_only: bool = False) -> None:
        """`url` is as SQLAlchemy takes it: SQLite or PostgreSQL. `read_only` makes nothing."""
        self._database = Database(url, read_only=read_only)
        self.search = Search(self._database)

    @property
    def database(self) -> Database:
        """What it is kept in."""
        return self._database

    def close(self) -> None:
        """Closes the connections."""
        self._database.close()

    def append(self, records: Sequence[Record]) -> int:
        """Appends those of the events that are not there yet, all or none, and gives how many.

        They are in order. Any number of writers may append the same events at once. Raises GapError.
        """
        with self._database.writing() as connection:
            position, previous_hash = end(connection)
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
        return self._database.read(last_entry)

    def walk(self, until: int, after: int | None = None) -> Iterator[Entry]:
        """All entries in the order of their positions, which nothing is assumed of, up to one."""
        page = select(*COLUMNS).where(ENTRIES.c.position <= until).order_by(ENTRIES.c.position)
        while entries := self._page(page if after is None else page.where(ENTRIES.c.position > after)):
            yield from entries
            after = entries[-1].position

    def links(self, positions: Collection[int]) -> dict[int, tuple[object, object]]:
        """By position, the previous hash and the hash of entries, as far as they are there."""
        hashes = select(ENTRIES.c.position, ENTRIES.c.previous_hash, ENTRIES.c.entry_hash)
        wanted = hashes.where(ENTRIES.c.position.in_(positions))
        return self._database.read(
            lambda connection: {row[0]: (row[1], row[2]) for row in connection.execute(wanted)}
        )

    def checkpoints(self) -> list[StoredCheckpoint]:
        """All checkpoints, by their numbers."""
        ordered = select(CHECKPOINTS.c.sequence, CHECKPOINTS.c.note).order_by(CHECKPOINTS.c.sequence)
        return self._database.read(
            lambda connection: [StoredCheckpoint._make(row) for row in connection.execute(ordered)]
        )

    def last_checkpoint(self) -> StoredCheckpoint | None:
        """The newest checkpoint."""
        return self._database.read(_last_checkpoint)

    def add_checkpoint(self, checkpoint: StoredCheckpoint) -> bool:
        """Adds the next checkpoint; gives False if another process has added one with this number."""
        with self._database.writing() as connection:
            last = _last_checkpoint(connection)
            if checkpoint.sequence != (last.sequence + 1 if last else 1):
                return False
            connection.execute(insert(CHECKPOINTS), checkpoint._asdict())
            return True

    def put_back(self, notes: Sequence[bytes]) -> None:
        """Adds those of the first checkpoints that are not there yet. Only for a restore."""
        with self._database.writing() as connection:
            last = _last_checkpoint(connection)
            held = last.sequence if last else 0
            if new := notes[held:]:
                rows = [{"sequence": number, "note": note} for number, note in enumerate(new, held + 1)]
                connection.execute(insert(CHECKPOINTS), rows)

    def reindex(self, progress: Callable[[int, int], None]) -> None:
        """Makes anew what the filters search. `progress` is told how many entries are in, and of how many."""
        with self._database.writing() as connection:
            self._database.index.start(connection)
        is_behind = True
        while is_behind:
            with self._database.writing() as connection:
                is_behind = self._index_some(connection)
                progress(self._database.index.last(connection), end(connection)[0])

    def index_some(self) -> bool:
        """Indexes some entries that aren't searchable yet. Returns whether there may be more."""
        with self._database.writing() as connection:
            return self._index_some(connection)

    def _index_some(self, connection: Connection) -> bool:
        """Takes up entries that the index lacks; gives whether it may lack more."""
        if not self._database.index.is_current(connection):
            self._database.index.start(connection)
        last = self._database.index.last(connection)
        lacking = select(ENTRIES.c.position, ENTRIES.c.record).where(ENTRIES.c.position > last)
        rows = connection.execute(lacking.order_by(ENTRIES.c.position).limit(_INDEX_PAGE)).all()
        if rows:
            self._database.index.add(connection, ((row.position, _terms(row.record)) for row in rows))
        return len(rows) == _INDEX_PAGE

    def _page(self, of: Select[*tuple[object, ...]]) -> list[Entry]:
        page = of.limit(_WALK_PAGE)
        return self._database.read(lambda connection: [entry_of_row(row) for row in connection.execute(page)])


def _last_checkpoint(connection: Connection) -> StoredCheckpoint | None:
    newest = select(CHECKPOINTS.c.sequence, CHECKPOINTS.c.note).order_by(CHECKPOINTS.c.sequence.desc())
    row = connection.execute(newest.limit(1)).first()
    return StoredCheckpoint(row.sequence, row.note) if row else None


def _terms(sealed: object) -> set[str]:
    record = record_of(sealed)
    return terms_of(record) if record else set()


def _checkpoint(entry: Entry) -> Checkpoint:
    record = record_of(entry.record)
    return Checkpoint(entry.position, checkpoint_at([record]).event_id if record else "")
