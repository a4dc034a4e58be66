"""Searches the audit log by the terms of its index."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from services.audit.log.audit_entry import parse_entry
from services.audit.log.database import Database
from services.audit.log.entry import Entry
from services.audit.log.filters import Filters
from services.audit.log.histogram import Activity, activity, edges
from services.audit.log.rows import end, entries_at, position_at
from services.audit.log.terms import Wanted, term_of
from shared.clock import printable_time
from shared.eventstore.codec import FORMS
from shared.eventstore.payload import KEY_SUBJECT, key_name_paths

_PAGE = 500
_MAX_KEYS = 100
MAX_NAMINGS = 1_000  # of the newest events that name a key; keys named only in older ones aren't found
_NAMING = tuple(term_of("type", form.TYPE) for form in FORMS if any(key_name_paths(form)))


class TooManyKeysError(Exception):
    """Too many keys have or had the name that is searched."""

    def __init__(self) -> None:
        super().__init__(f"More than {_MAX_KEYS} keys have or had this name. Enter more of it.")


class Page(NamedTuple):
    """Some entries, newest first, and the cursor of the next page, if there is one."""

    entries: list[Entry]
    next_cursor: int | None
    missing: Sequence[int]  # positions that match but have no entry any more


class Search:
    """Queries. All raise AuditDatabaseError, and those with filters TooManyKeysError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, filters: Filters, limit: int, cursor: int | None = None) -> Page:
        """The newest matches before the cursor's position."""

        def query(connection: Connection) -> Page:
            found = self._find(connection, filters, limit + 1, before=cursor)
            entries = entries_at(connection, found[:limit])[::-1]
            missing = sorted({*found[:limit]} - {entry.position for entry in entries})
            return Page(entries, found[limit - 1] if len(found) > limit else None, missing)

        return self._database.read(query)

    def indexed(self) -> int:
        """The last position that is indexed. 0 while an index with old terms isn't rebuilt."""
        index = self._database.index
        return self._database.read(
            lambda connection: index.last(connection) if index.is_current(connection) else 0
        )

    def ascending(self, filters: Filters, until: int | None = None) -> Iterator[Entry]:
        """All matches up to a position, by the key names known then, oldest first."""
        after = 0
        before = None if until is None else until + 1

        def query(connection: Connection) -> list[Entry]:
            found = self._find(
                connection, filters, _PAGE, after=after, before=before, known=until, ascending=True
            )
            return entries_at(connection, found)

        while entries := self._database.read(query):
            yield from entries
            after = entries[-1].position

    def activity(self, filters: Filters) -> Activity | None:
        """A histogram of the matches, or None if there are none."""
        index = self._database.index

        def query(connection: Connection) -> Activity | None:
            wanted, between = self._sought(connection, filters)
            ends = [
                position
                for ascending in (True, False)
                if between
                for position in index.find(connection, wanted, between, 1, ascending=ascending)
            ]
            if not ends:
                return None
            # A database that was tampered with may lack an entry, or have wrong times.
            times = [printable_time(parse_entry(entry).at) for entry in entries_at(connection, ends)]
            of = edges(min(times), max(times)) if times else range(0)
            if not of:
                return None
            starts = [min(max(position_at(connection, at), between.start), between.stop) for at in of]
            return activity(of, index.count(connection, wanted, starts))

        return self._database.read(query)

    def key_names(self, workspace: str, key_ids: Iterable[str]) -> dict[str, str]:
        """The last names of keys of a workspace, by key ID."""
        keys = tuple(term_of("subject", KEY_SUBJECT + key_id) for key_id in sorted(set(key_ids)))
        wanted: Wanted = ((term_of("workspace", workspace),), keys, _NAMING)
        if not keys:
            return {}

        def query(connection: Connection) -> list[Entry]:
            found = self._database.index.find_few(connection, wanted)
            return entries_at(connection, found[-MAX_NAMINGS:])

        # For each key, the newest name comes last and wins.
        namings = (parse_entry(entry).event for entry in self._database.read(query))
        return {str(event.key_id): name for event in namings if (name := event.key_name) is not None}

    def _find(
        self,
        connection: Connection,
        filters: Filters,
        limit: int,
        *,
        after: int = 0,
        before: int | None = None,
        known: int | None = None,
        ascending: bool = False,
    ) -> list[int]:
        """The positions of the first matches between two positions."""
        wanted, between = self._sought(connection, filters, after, before, known)
        find = self._database.index.find
        return find(connection, wanted, between, limit, ascending=ascending) if between else []

    def _sought(
        self,
        connection: Connection,
        filters: Filters,
        after: int = 0,
        before: int | None = None,
        known: int | None = None,
    ) -> tuple[Wanted, range]:
        """The terms and the range of positions to search; an empty range if nothing can match.

        Names that keys got after the position `known` don't count.
        """
        # Times in the ledger never go back, so a time corresponds to a position.
        start = after + 1
        if filters.since is not None:
            start = max(start, position_at(connection, filters.since))
        stop = end(connection)[0] + 1 if before is None else before
        if filters.until is not None:
            stop = min(stop, position_at(connection, filters.until))
        wanted = (*filters.wanted, *self._keys_called(connection, filters, known))
        return wanted, range(0) if () in wanted else range(start, stop)

    def _keys_called(self, connection: Connection, filters: Filters, known: int | None) -> Wanted:
        """For each name that is searched, the keys of the workspace that have or had it."""
        return tuple(self._keys_named(connection, wanted, known) for wanted in filters.namings_wanted)

    def _keys_named(self, connection: Connection, wanted: Wanted, known: int | None) -> tuple[str, ...]:
        if () in wanted:
            return ()
        everywhere = range(1, (end(connection)[0] if known is None else known) + 1)
        namings = entries_at(
            connection, self._database.index.find(connection, wanted, everywhere, MAX_NAMINGS)
        )
        keys = {key_id for entry in namings if (key_id := parse_entry(entry).event.key_id)}
        if len(keys) > _MAX_KEYS:
            raise TooManyKeysError
        return keys_wanted(keys)


def keys_wanted(keys: Iterable[str]) -> tuple[str, ...]:
    """The terms of which any event about one of the keys has one."""
    return tuple(term_of("subject", KEY_SUBJECT + key_id) for key_id in sorted(keys))
