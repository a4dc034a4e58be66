"""By which positions are found: the full-text index of the audit log's database, FTS5 or GIN.

It holds the terms of each entry, and nothing that could not be made again from the entries. All filters but
that of time are terms, so any of them together are one question to one index. It is asked from the newest
entry backwards, and no further than the page needs.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Protocol

from sqlalchemy import Connection

from services.audit.terms import Wanted

_BLOCK_BITS = 15  # of a position; PostgreSQL is asked block by block, for GIN gives all that it finds at once


class Index(Protocol):
    """What either database does in its own way."""

    def set_up(self, connection: Connection) -> None:
        """Makes it, where it is not there yet."""

    def last(self, connection: Connection) -> int:
        """How far it goes."""

    def add(self, connection: Connection, terms: Iterable[tuple[int, set[str]]]) -> None:
        """Takes up entries: their positions and terms."""

    def clear(self, connection: Connection) -> None:
        """Forgets everything."""

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

    def clear(self, connection: Connection) -> None:
        """Forgets everything."""
        connection.exec_driver_sql("INSERT INTO audit_terms (audit_terms) VALUES ('delete-all')")

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
    """PostgreSQL's. A term of its own tells which block of positions an entry is in."""

    def set_up(self, connection: Connection) -> None:
        """Makes it, where it is not there yet."""
        connection.exec_driver_sql(
            "CREATE TABLE IF NOT EXISTS audit_terms (position bigint PRIMARY KEY, terms tsvector NOT NULL)"
        )
        connection.exec_driver_sql(
            "CREATE INDEX IF NOT EXISTS audit_terms_index ON audit_terms USING gin (terms)"
        )

    def last(self, connection: Connection) -> int:
        """How far it goes."""
        return connection.exec_driver_sql("SELECT max(position) FROM audit_terms").scalar() or 0

    def add(self, connection: Connection, terms: Iterable[tuple[int, set[str]]]) -> None:
        """Takes up entries: their positions and terms."""
        rows = [(position, [*of_entry, _block(position)]) for position, of_entry in terms]
        connection.exec_driver_sql("INSERT INTO audit_terms VALUES (%s, array_to_tsvector(%s))", rows)

    def clear(self, connection: Connection) -> None:
        """Forgets everything."""
        connection.exec_driver_sql("TRUNCATE audit_terms")

    def find(
        self, connection: Connection, wanted: Wanted, between: range, limit: int, *, ascending: bool = False
    ) -> list[int]:
        """The first positions of a range that have what is wanted: the newest, unless it goes upwards."""
        first, last = between.start >> _BLOCK_BITS, (between.stop - 1) >> _BLOCK_BITS
        blocks = (first, last, 1) if ascending else (last, first, -1)
        order = "ASC" if ascending else "DESC"
        found = connection.exec_driver_sql(
            f"""
            SELECT found.position FROM generate_series(%s::bigint, %s::bigint, %s::bigint) AS block,
            LATERAL (
              SELECT position FROM (
                SELECT position FROM audit_terms
                WHERE terms @@ (%s || ' & ''block=' || block || '''')::tsquery OFFSET 0
              ) AS of_block
              WHERE position BETWEEN %s AND %s ORDER BY position {order}
            ) AS found LIMIT %s""",  # noqa: S608  # the order is one of two
            (*blocks, _query(wanted), between.start, between.stop - 1, limit),
        )
        return list(found.scalars())

    def find_few(self, connection: Connection, wanted: Wanted) -> list[int]:
        """All positions that have what is wanted, in order, where those are few."""
        # Whatever the order, all that GIN finds is found first.
        found = "SELECT position FROM audit_terms WHERE terms @@ %s::tsquery OFFSET 0"
        return sorted(connection.exec_driver_sql(found, (_query(wanted),)).scalars())

    def count(self, connection: Connection, wanted: Wanted, starts: Sequence[int]) -> list[int]:
        """How many have what is wanted from each of some positions up to the next of these."""
        counted = (
            "SELECT width_bucket(position, %s::bigint[]) AS bucket, count(*) FROM audit_terms "
            "WHERE terms @@ %s::tsquery AND position >= %s AND position < %s GROUP BY bucket"
        )
        bounds = (starts[0], starts[-1])
        rows = connection.exec_driver_sql(counted, (list(starts[:-1]), _query(wanted), *bounds))
        counts: dict[int, int] = dict(rows.all())
        return [counts.get(bucket, 0) for bucket in range(1, len(starts))]


def _query(wanted: Wanted) -> str:
    """What PostgreSQL is asked; no term has an apostrophe in it."""
    return " & ".join("(" + " | ".join(map("'{}'".format, terms)) + ")" for terms in wanted)


def _block(position: int) -> str:
    return f"block={position >> _BLOCK_BITS}"


INDICES: Mapping[str, Index] = {"sqlite": Fts5(), "postgresql": Gin()}
