"""The audit log: an append-only chain of entries in a SQL database, and its checkpoints."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import URL, Connection, Select, insert, select

from services.audit.log.database import Database
from services.audit.log.entry import Entry, chain, record_of
from services.audit.log.rows import COLUMNS, end, entry_of_row, last_entry
from services.audit.log.schema import CHECKPOINTS, ENTRIES
from services.audit.log.search import Search
from services.audit.log.terms import terms_of
from shared.eventstore.envelope import Record
from shared.eventstore.ledger import BEGINNING, Checkpoint, checkpoint_at

_WALK_PAGE = 1_000
_INDEX_PAGE = 5_000


class GapError(Exception):
    """The events don't follow the last entry: some in between are missing."""

    def __init__(self, wanted: int, found: int) -> None:
        super().__init__(f"the audit log needs the event at position {wanted} next, but got {found}")
        self.wanted = wanted


class StoredCheckpoint(NamedTuple):
    """A row of the checkpoints: its sequence number and the signed note."""

    sequence: int
    note: bytes


class AuditLog:
    """Reads and writes the log. It connects at its first use. Every method raises AuditDatabaseError."""

    def __init__(self, url: str | URL, *, read_only: bool = False) -> None:
        """`url` is an SQLAlchemy URL. With `read_only`, nothing is created or changed."""
        self.database = Database(url, read_only=read_only)
        self.search = Search(self.database)

    def close(self) -> None:
        self.database.close()

    def append(self, records: Sequence[Record]) -> int:
        """Appends the events that the log doesn't have yet, all or none, and returns how many.

        They must be in order. Any number of processes can append the same events at once. Raises GapError.
        """
        with self.database.writing() as connection:
            position, previous_hash = end(connection)
            new = [record for record in records if record.position > position]
            for wanted, record in enumerate(new, position + 1):
                if record.position != wanted:
                    raise GapError(wanted, record.position)
            if new:
                entries = chain(new, previous_hash)
                connection.execute(insert(ENTRIES), [entry._asdict() for entry in entries])
            is_behind = self._index_some(connection)
        while is_behind:  # the index is new or was cleared
            with self.database.writing() as connection:
                is_behind = self._index_some(connection)
        return len(new)

    def last(self) -> Checkpoint:
        """The position and ID of the last event. BEGINNING for an empty log."""
        entry = self.last_entry()
        return _checkpoint(entry) if entry else BEGINNING

    def last_entry(self) -> Entry | None:
        return self.database.read(last_entry)

    def walk(self, until: int, after: int | None = None) -> Iterator[Entry]:
        """All entries up to a position, in order. They may have gaps if they were tampered with."""
        page = select(*COLUMNS).where(ENTRIES.c.position <= until).order_by(ENTRIES.c.position)
        while entries := self._page(page if after is None else page.where(ENTRIES.c.position > after)):
            yield from entries
            after = entries[-1].position

    def links(self, positions: Collection[int]) -> dict[int, tuple[object, object]]:
        """By position, the previous hash and the hash of the entries that exist."""
        hashes = select(ENTRIES.c.position, ENTRIES.c.previous_hash, ENTRIES.c.entry_hash)
        wanted = hashes.where(ENTRIES.c.position.in_(positions))
        return self.database.read(
            lambda connection: {row[0]: (row[1], row[2]) for row in connection.execute(wanted)}
        )

    def checkpoints(self) -> list[StoredCheckpoint]:
        """All checkpoints, in order."""
        ordered = select(CHECKPOINTS.c.sequence, CHECKPOINTS.c.note).order_by(CHECKPOINTS.c.sequence)
        return self.database.read(
            lambda connection: [StoredCheckpoint._make(row) for row in connection.execute(ordered)]
        )

    def last_checkpoint(self) -> StoredCheckpoint | None:
        return self.database.read(_last_checkpoint)

    def add_checkpoint(self, checkpoint: StoredCheckpoint) -> bool:
        """Adds the next checkpoint. Returns False if another process has added one with this number."""
        with self.database.writing() as connection:
            last = _last_checkpoint(connection)
            if checkpoint.sequence != (last.sequence + 1 if last else 1):
                return False
            connection.execute(insert(CHECKPOINTS), checkpoint._asdict())
            return True

    def restore_checkpoints(self, notes: Sequence[bytes]) -> None:
        """Adds the checkpoints that the log doesn't have yet, given all from the first one on."""
        with self.database.writing() as connection:
            last = _last_checkpoint(connection)
            count = last.sequence if last else 0
            if new := notes[count:]:
                rows = [{"sequence": number, "note": note} for number, note in enumerate(new, count + 1)]
                connection.execute(insert(CHECKPOINTS), rows)

    def reindex(self, progress: Callable[[int, int], None]) -> None:
        """Rebuilds the search index. `progress` gets the number of entries that are indexed, and of all."""
        with self.database.writing() as connection:
            self.database.index.start(connection)
        is_behind = True
        while is_behind:
            with self.database.writing() as connection:
                is_behind = self._index_some(connection)
                progress(self.database.index.last(connection), end(connection)[0])

    def index_some(self) -> bool:
        """Indexes some entries that aren't searchable yet. Returns whether there may be more."""
        with self.database.writing() as connection:
            return self._index_some(connection)

    def _index_some(self, connection: Connection) -> bool:
        if not self.database.index.is_current(connection):
            self.database.index.start(connection)
        last = self.database.index.last(connection)
        missing = select(ENTRIES.c.position, ENTRIES.c.record).where(ENTRIES.c.position > last)
        rows = connection.execute(missing.order_by(ENTRIES.c.position).limit(_INDEX_PAGE)).all()
        if rows:
            self.database.index.add(connection, ((row.position, _terms(row.record)) for row in rows))
        return len(rows) == _INDEX_PAGE

    def _page(self, of: Select[*tuple[object, ...]]) -> list[Entry]:
        page = of.limit(_WALK_PAGE)
        return self.database.read(lambda connection: [entry_of_row(row) for row in connection.execute(page)])


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
