"""The full-text index of the audit log's entries: FTS5 on SQLite, GIN on PostgreSQL.

It has the terms of each entry, so it can be rebuilt from the entries. All filters except time are terms, so
any combination of them is one query on one index. A query goes from the newest entry backwards, and no
further than the page needs.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Protocol

from sqlalchemy import Connection

from services.audit.log.terms import TERMS_VERSION, Wanted

# PostgreSQL is queried for one part of the log at a time, and if that has many matches, for its blocks:
# positions that differ only in this many lower bits.
_PART = 18
_BLOCKS = (15, 12)
_MAX_ROWS = 1_000
_PENDING_KB = 512  # of entries that aren't merged into the index yet, and that every query scans
_ANY_PART = "*"
_VERSION = f"version={TERMS_VERSION}"  # the only term at position 0, which no entry has


class TextIndex(Protocol):
    """Finds the positions of entries by their terms."""

    def set_up(self, connection: Connection) -> None:
        """Creates the index if it doesn't exist."""

    def last(self, connection: Connection) -> int:
        """The last position that is indexed."""

    def add(self, connection: Connection, terms: Iterable[tuple[int, set[str]]]) -> None:
        """Adds entries: their positions and terms."""

    def is_current(self, connection: Connection) -> bool:
        """Whether it was built with the terms of this version."""

    def start(self, connection: Connection) -> None:
        """Deletes everything, and stores the version of the terms that are added from now on."""

    def find(
        self, connection: Connection, wanted: Wanted, between: range, limit: int, *, ascending: bool = False
    ) -> list[int]:
        """The newest matches in a range, or the oldest ones if `ascending`."""

    def find_few(self, connection: Connection, wanted: Wanted) -> list[int]:
        """All matches in order. Only for queries with few matches."""

    def count(self, connection: Connection, wanted: Wanted, starts: Sequence[int]) -> list[int]:
        """The number of matches from each of `starts` up to the next."""


class Fts5(TextIndex):
    """The index on SQLite. It stores neither the text of the terms nor where they are in an entry."""

    def set_up(self, connection: Connection) -> None:
        connection.exec_driver_sql(
            "CREATE VIRTUAL TABLE IF NOT EXISTS audit_terms USING fts5"
            """(terms, content='', detail=none, tokenize="ascii tokenchars '='")"""
        )

    def last(self, connection: Connection) -> int:
        newest = "SELECT rowid FROM audit_terms ORDER BY rowid DESC LIMIT 1"
        return connection.exec_driver_sql(newest).scalar() or 0

    def add(self, connection: Connection, terms: Iterable[tuple[int, set[str]]]) -> None:
        rows = [(position, " ".join(of_entry)) for position, of_entry in terms]
        connection.exec_driver_sql("INSERT INTO audit_terms (rowid, terms) VALUES (?, ?)", rows)

    def is_current(self, connection: Connection) -> bool:
        noted = "SELECT 1 FROM audit_terms WHERE audit_terms MATCH ? AND rowid = 0"
        return connection.exec_driver_sql(noted, (_match(((_VERSION,),)),)).first() is not None

    def start(self, connection: Connection) -> None:
        connection.exec_driver_sql("INSERT INTO audit_terms (audit_terms) VALUES ('delete-all')")
        self.add(connection, [(0, {_VERSION})])

    def find(
        self, connection: Connection, wanted: Wanted, between: range, limit: int, *, ascending: bool = False
    ) -> list[int]:
        order = "ASC" if ascending else "DESC"
        found = connection.exec_driver_sql(
            "SELECT rowid FROM audit_terms WHERE audit_terms MATCH ? AND rowid BETWEEN ? AND ? "  # noqa: S608  # the order is one of two
            f"ORDER BY rowid {order} LIMIT ?",
            (_match(wanted), between.start, between.stop - 1, limit),
        )
        return list(found.scalars())

    def find_few(self, connection: Connection, wanted: Wanted) -> list[int]:
        found = "SELECT rowid FROM audit_terms WHERE audit_terms MATCH ? ORDER BY rowid"
        return list(connection.exec_driver_sql(found, (_match(wanted),)).scalars())

    def count(self, connection: Connection, wanted: Wanted, starts: Sequence[int]) -> list[int]:
        # One by one, because each count is done within the index, unlike a GROUP BY.
        counted = "SELECT count(*) FROM audit_terms WHERE audit_terms MATCH ? AND rowid BETWEEN ? AND ?"
        match = _match(wanted)
        return [
            connection.exec_driver_sql(counted, (match, start, stop - 1)).scalar() or 0
            for start, stop in pairwise(starts)
        ]


def _match(wanted: Wanted) -> str:
    """The FTS5 query. Terms have no quotation marks."""
    return " AND ".join("(" + " OR ".join(map('"{}"'.format, terms)) + ")" for terms in wanted)


class Gin(TextIndex):
    """The index on PostgreSQL. GIN returns all matches at once, so each term includes a part of the log.

    Parts are queried one by one. If a part has too many matches, its blocks are queried instead, for which
    there are separate terms.
    """

    def set_up(self, connection: Connection) -> None:
        connection.exec_driver_sql(
            "CREATE TABLE IF NOT EXISTS audit_terms (position bigint PRIMARY KEY, terms tsvector NOT NULL)"
        )
        connection.exec_driver_sql(
            "CREATE INDEX IF NOT EXISTS audit_terms_index ON audit_terms USING gin (terms) "
            f"WITH (gin_pending_list_limit = {_PENDING_KB})"
        )

    def last(self, connection: Connection) -> int:
        return connection.exec_driver_sql("SELECT max(position) FROM audit_terms").scalar() or 0

    def add(self, connection: Connection, terms: Iterable[tuple[int, set[str]]]) -> None:
        rows = [(position, _with_part(of_entry, position)) for position, of_entry in terms]
        connection.exec_driver_sql("INSERT INTO audit_terms VALUES (%s, array_to_tsvector(%s))", rows)

    def is_current(self, connection: Connection) -> bool:
        noted = "SELECT 1 FROM audit_terms WHERE position = 0 AND terms @@ %s::tsquery"
        return connection.exec_driver_sql(noted, (_query(((_VERSION,),), "0"),)).first() is not None

    def start(self, connection: Connection) -> None:
        connection.exec_driver_sql("TRUNCATE audit_terms")
        self.add(connection, [(0, {_VERSION})])

    def find(
        self, connection: Connection, wanted: Wanted, between: range, limit: int, *, ascending: bool = False
    ) -> list[int]:
        # If it expects many matches, the planner would scan the whole table.
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
        """The first matches of a range that is within one part, or one block of that many bits."""
        smaller = next((each for each in _BLOCKS if each < bits), None)
        found = self._matches(connection, wanted, bits, part, _MAX_ROWS if smaller else None)
        if smaller is None or len(found) < _MAX_ROWS:
            return sorted(found, reverse=not ascending)[:limit]
        found = []
        for block in _split(part, smaller, ascending=ascending):
            lacking = limit - len(found)
            found += self._find_in(connection, wanted, smaller, block, lacking, ascending=ascending)
            if len(found) >= limit:
                break
        return found

    def _matches(
        self, connection: Connection, wanted: Wanted, bits: int, part: range, limit: int | None
    ) -> list[int]:
        query = _query(wanted, str(part.start >> _PART))
        if bits != _PART:
            query += f" & '{_block(part.start, bits)}'"
        of_block = "SELECT position FROM audit_terms WHERE terms @@ %s::tsquery OFFSET 0"
        found = connection.exec_driver_sql(
            f"SELECT position FROM ({of_block}) AS found WHERE position >= %s AND position < %s LIMIT %s",  # noqa: S608  # the inner one is the line above
            (query, part.start, part.stop, limit),
        )
        return list(found.scalars())

    def find_few(self, connection: Connection, wanted: Wanted) -> list[int]:
        # GIN finds all matches before it can order them.
        found = (
            "SELECT position FROM generate_series(0, %s::bigint) AS part, LATERAL ("
            "SELECT position FROM audit_terms WHERE terms @@ replace(%s, %s, part::text)::tsquery OFFSET 0"
            ") AS found"
        )
        last_part = self.last(connection) >> _PART
        rows = connection.exec_driver_sql(found, (last_part, _query(wanted, _ANY_PART), _ANY_PART))
        return sorted(rows.scalars())

    def count(self, connection: Connection, wanted: Wanted, starts: Sequence[int]) -> list[int]:
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
    """The PostgreSQL query for a part. Terms have no apostrophes."""
    return " & ".join("(" + " | ".join(f"'{term}@{part}'" for term in terms) + ")" for terms in wanted)


def _with_part(terms: Iterable[str], position: int) -> list[str]:
    """The terms of an entry with its part, and the terms of its blocks."""
    part = position >> _PART
    return [*(f"{term}@{part}" for term in terms), *(_block(position, bits) for bits in _BLOCKS)]


def _block(position: int, bits: int) -> str:
    return f"block{bits}={position >> bits}"


def _split(positions: range, bits: int, *, ascending: bool) -> Iterator[range]:
    """Splits a range at the borders of blocks of that many bits."""
    blocks = range(positions.start >> bits, ((positions.stop - 1) >> bits) + 1) if positions else range(0)
    for block in blocks if ascending else reversed(blocks):
        yield range(max(positions.start, block << bits), min(positions.stop, (block + 1) << bits))


INDICES: Mapping[str, TextIndex] = {"sqlite": Fts5(), "postgresql": Gin()}
