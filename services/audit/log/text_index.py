"""By which positions are found: the full-text index of the audit log's database, FTS5 or GIN.

It holds the terms of each entry, and nothing that could not be made again from the entries. All filters but
that of time are terms, so any of them together are one question to one index. It is asked from the newest
entry backwards, and no further than the page needs.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Protocol

from sqlalchemy import Connection

from services.audit.log.terms import TERMS_VERSION, Wanted

# PostgreSQL is asked for a part of the log at a time, and where that has much, for blocks of it: positions
# that are the same but for so many bits.
_PART = 18
_BLOCKS = (15, 12)
_MAX_ROWS = 1_000
_PENDING_KB = 512  # of entries that are not in the index proper yet, and that every question goes through
_ANY_PART = "*"
_VERSION = f"version={TERMS_VERSION}"  # the one term at position 0, where no entry is


class Index(Protocol):
    """What either database does in its own way."""

    def set_up(self, connection: Connection) -> None:
        """Makes it, where it is not there yet."""

    def last(self, connection: Connection) -> int:
        """How far it goes."""

    def add(self, connection: Connection, terms: Iterable[tuple[int, set[str]]]) -> None:
        """Takes up entries: their positions and terms."""

    def is_current(self, connection: Connection) -> bool:
        """Whether it was filled with the terms of this version."""

    def start(self, connection: Connection) -> None:
        """Removes everything, and notes the version of the terms that it is filled with from now on."""

    def find(
        self, connection: Connection, wanted: Wanted, between: range, limit: int, *, ascending: bool = False
    ) -> list[int]:
        """The first positions of a range that have what is wanted: the newest, unless it goes upwards."""

    def find_few(self, connection: Connection, wanted: Wanted) -> list[int]:
        """All positions that have what is wanted, in order, where those are few."""

    def count(self, connection: Connection, wanted: Wanted, starts: Sequence[int]) -> list[int]:
        """How many have what is wanted from each of some positions up to the next of these."""


class Fts5(Index):
    """SQLite's. It keeps neither the terms as they were nor where in an entry they stood."""

    def set_up(self, connection: Connection) -> None:
        """Makes it, where it is not there yet."""
        connection.exec_driver_sql(
            "CREATE VIRTUAL TABLE IF NOT EXISTS audit_terms USING fts5"
            """(terms, content='', detail=none, tokenize="ascii tokenchars '='")"""
        )

    def last(self, connection: Connection) -> int:
        """How far it goes."""
        newest = "SELECT rowid FROM audit_terms ORDER BY rowid DESC LIMIT 1"
        return connection.exec_driver_sql(newest).scalar() or 0

    def add(self, connection: Connection, terms: Iterable[tuple[int, set[str]]]) -> None:
        """Takes up entries: their positions and terms."""
        rows = [(position, " ".join(of_entry)) for position, of_entry in terms]
        connection.exec_driver_sql("INSERT INTO audit_terms (rowid, terms) VALUES (?, ?)", rows)

    def is_current(self, connection: Connection) -> bool:
        """Whether it was filled with the terms of this version."""
        noted = "SELECT 1 FROM audit_terms WHERE audit_terms MATCH ? AND rowid = 0"
        return connection.exec_driver_sql(noted, (_match(((_VERSION,),)),)).first() is not None

    def start(self, connection: Connection) -> None:
        """Removes everything, and notes the version of the terms that it is filled with from now on."""
        connection.exec_driver_sql("INSERT INTO audit_terms (audit_terms) VALUES ('delete-all')")
        self.add(connection, [(0, {_VERSION})])

    def find(
        self, connection: Connection, wanted: Wanted, between: range, limit: int, *, ascending: bool = False
    ) -> list[int]:
        """The first positions of a range that have what is wanted: the newest, unless it goes upwards."""
        order = "ASC" if ascending else "DESC"
        found = connection.exec_driver_sql(
            "SELECT rowid FROM audit_terms WHERE audit_terms MATCH ? AND rowid BETWEEN ? AND ? "  # noqa: S608  # the order is one of two
            f"ORDER BY rowid {order} LIMIT ?",
            (_match(wanted), between.start, between.stop - 1, limit),
        )
        return list(found.scalars())

    def find_few(self, connection: Connection, wanted: Wanted) -> list[int]:
        """All positions that have what is wanted, in order, where those are few."""
        found = "SELECT rowid FROM audit_terms WHERE audit_terms MATCH ? ORDER BY rowid"
        return list(connection.exec_driver_sql(found, (_match(wanted),)).scalars())

    def count(self, connection: Connection, wanted: Wanted, starts: Sequence[int]) -> list[int]:
        """How many have what is wanted from each of some positions up to the next of these."""
        # One by one: each count is done within the index, which a GROUP BY over its rows is not.
        counted = "SELECT count(*) FROM audit_terms WHERE audit_terms MATCH ? AND rowid BETWEEN ? AND ?"
        match = _match(wanted)
        return [
            connection.exec_driver_sql(counted, (match, start, stop - 1)).scalar() or 0
            for start, stop in pairwise(starts)
        ]


def _match(wanted: Wanted) -> str:
    """What FTS5 is asked; no term has a quotation mark in it."""
    return " AND ".join("(" + " OR ".join(map('"{}"'.format, terms)) + ")" for terms in wanted)


class Gin(Index):
    """PostgreSQL's. GIN gives all that it finds at once, so each term tells the part of the log it is in.

    Parts are asked one after the other. No more than some rows of a part are taken: where it has more, its
    blocks are asked, for which there are terms of their own.
    """

    def set_up(self, connection: Connection) -> None:
        """Makes it, where it is not there yet."""
        connection.exec_driver_sql(
            "CREATE TABLE IF NOT EXISTS audit_terms (position bigint PRIMARY KEY, terms tsvector NOT NULL)"
        )
        connection.exec_driver_sql(
            "CREATE INDEX IF NOT EXISTS audit_terms_index ON audit_terms USING gin (terms) "
            f"WITH (gin_pending_list_limit = {_PENDING_KB})"
        )

    def last(self, connection: Connection) -> int:
        """How far it goes."""
        return connection.exec_driver_sql("SELECT max(position) FROM audit_terms").scalar() or 0

    def add(self, connection: Connection, terms: Iterable[tuple[int, set[str]]]) -> None:
        """Takes up entries: their positions and terms."""
        rows = [
            (position, [*_in_part(of_entry, position >> _PART), *_blocks(position)])
            for position, of_entry in terms
        ]
        connection.exec_driver_sql("INSERT INTO audit_terms VALUES (%s, array_to_tsvector(%s))", rows)

    def is_current(self, connection: Connection) -> bool:
        """Whether it was filled with the terms of this version."""
        noted = "SELECT 1 FROM audit_terms WHERE position = 0 AND terms @@ %s::tsquery"
        return connection.exec_driver_sql(noted, (_query(((_VERSION,),), "0"),)).first() is not None

    def start(self, connection: Connection) -> None:
        """Removes everything, and notes the version of the terms that it is filled with from now on."""
        connection.exec_driver_sql("TRUNCATE audit_terms")
        self.add(connection, [(0, {_VERSION})])

    def find(
        self, connection: Connection, wanted: Wanted, between: range, limit: int, *, ascending: bool = False
    ) -> list[int]:
        """The first positions of a range that have what is wanted: the newest, unless it goes upwards."""
        # Where much is expected, a scan of the table would be chosen, however little there is.
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        nearest = next(_split(between, _BLOCKS[-1], ascending=ascending))
        rest = range(nearest.stop, between.stop) if ascending else range(between.start, nearest.start)
        found = self._find_in(connection, wanted, _BLOCKS[-1], nearest, limit, ascending=ascending)
        for part in _split(rest, _PART, ascending=ascending):
            if len(found) >= limit:
                break
            lacking = limit - len(found)
            found += self._find_in(connection, wanted, _PART, part, lacking, ascending=ascending)
        return found

    def _find_in(
        self, connection: Connection, wanted: Wanted, bits: int, part: range, limit: int, *, ascending: bool
    ) -> list[int]:
        """The first ones of a range that is within one part, or one block of so many bits."""
        smaller = next((each for each in _BLOCKS if each < bits), None)
        found = self._some_of(connection, wanted, bits, part, _MAX_ROWS if smaller else None)
        if smaller is None or len(found) < _MAX_ROWS:
            return sorted(found, reverse=not ascending)[:limit]
        found = []
        for block in _split(part, smaller, ascending=ascending):
            lacking = limit - len(found)
            found += self._find_in(connection, wanted, smaller, block, lacking, ascending=ascending)
            if len(found) >= limit:
                break
        return found

    def _some_of(
        self, connection: Connection, wanted: Wanted, bits: int, part: range, most: int | None
    ) -> list[int]:
        query = _query(wanted, str(part.start >> _PART))
        if bits != _PART:
            query += f" & '{_block(part.start, bits)}'"
        of_block = "SELECT position FROM audit_terms WHERE terms @@ %s::tsquery OFFSET 0"
        found = connection.exec_driver_sql(
            f"SELECT position FROM ({of_block}) AS found WHERE position >= %s AND position < %s LIMIT %s",  # noqa: S608  # the inner one is the line above
            (query, part.start, part.stop, most),
        )
        return list(found.scalars())

    def find_few(self, connection: Connection, wanted: Wanted) -> list[int]:
        """All positions that have what is wanted, in order, where those are few."""
        # Whatever the order, all that GIN finds is found first.
        found = (
            "SELECT position FROM generate_series(0, %s::bigint) AS part, LATERAL ("
            "SELECT position FROM audit_terms WHERE terms @@ replace(%s, %s, part::text)::tsquery OFFSET 0"
            ") AS found"
        )
        last_part = self.last(connection) >> _PART
        rows = connection.exec_driver_sql(found, (last_part, _query(wanted, _ANY_PART), _ANY_PART))
        return sorted(rows.scalars())

    def count(self, connection: Connection, wanted: Wanted, starts: Sequence[int]) -> list[int]:
        """How many have what is wanted from each of some positions up to the next of these."""
        counted = (
            "SELECT width_bucket(position, %s::bigint[]) AS bucket, count(*) "
            "FROM generate_series(%s::bigint, %s::bigint) AS part, LATERAL ("
            "SELECT position FROM audit_terms WHERE terms @@ replace(%s, %s, part::text)::tsquery OFFSET 0"
            ") AS found WHERE position >= %s AND position < %s GROUP BY bucket"
        )
        first, stop = starts[0], starts[-1]
        components = (first >> _PART, (stop - 1) >> _PART)
        query = (_query(wanted, _ANY_PART), _ANY_PART)
        rows = connection.exec_driver_sql(counted, (list(starts[:-1]), *components, *query, first, stop))
        counts: dict[int, int] = dict(rows.all())
        return [counts.get(bucket, 0) for bucket in range(1, len(starts))]


def _query(wanted: Wanted, part: str) -> str:
    """What PostgreSQL is asked of a part; no term has an apostrophe in it."""
    return " & ".join("(" + " | ".join(f"'{term}@{part}'" for term in terms) + ")" for terms in wanted)


def _in_part(terms: Iterable[str], part: int) -> Iterator[str]:
    """Terms as the entries of a part have them."""
    return (f"{term}@{part}" for term in terms)


def _blocks(position: int) -> Iterator[str]:
    return (_block(position, bits) for bits in _BLOCKS)


def _block(position: int, bits: int) -> str:
    return f"block{bits}={position >> bits}"


def _split(positions: range, bits: int, *, ascending: bool) -> Iterator[range]:
    """A range by the blocks of so many bits that it lies in; nothing of an empty one."""
    blocks = range(positions.start >> bits, ((positions.stop - 1) >> bits) + 1) if positions else range(0)
    for block in blocks if ascending else reversed(blocks):
        yield range(max(positions.start, block << bits), min(positions.stop, (block + 1) << bits))


INDICES: Mapping[str, Index] = {"sqlite": Fts5(), "postgresql": Gin()}
