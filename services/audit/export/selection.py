"""Applies filters to the events of the ledger, without the search index."""

from collections import deque
from collections.abc import Iterator

from services.audit.integrity.comparison import records_between
from services.audit.log.audit_entry import parse_event
from services.audit.log.filters import Filters
from services.audit.log.search import MAX_NAMINGS, keys_wanted
from services.audit.log.terms import Wanted, has_terms
from shared.eventstore.envelope import Record
from shared.eventstore.ledger import Ledger


def selected(ledger: Ledger, filters: Filters, until: int) -> Iterator[int]:
    """The positions of the matching events up to a position, in order. Reads the whole ledger, in pages.

    They are those that an intact index of an intact log finds. Raises redis.RedisError.
    """
    wanted = (*filters.wanted, *_keys_called(ledger, filters, until))
    for record in records_between(ledger, 0, until):
        if _is_within(record, filters) and has_terms(parse_event(record), wanted):
            yield record.position


def _is_within(record: Record, filters: Filters) -> bool:
    if filters.since is not None and record.at < filters.since:
        return False
    return filters.until is None or record.at < filters.until


def _keys_called(ledger: Ledger, filters: Filters, until: int) -> Wanted:
    """For each name that is searched, the keys of the workspace that have or had it."""
    return tuple(_keys_named(ledger, wanted, until) for wanted in filters.namings_wanted)


def _keys_named(ledger: Ledger, wanted: Wanted, until: int) -> tuple[str, ...]:
    events = map(parse_event, records_between(ledger, 0, until))
    keys = deque((event.key_id for event in events if has_terms(event, wanted)), MAX_NAMINGS)
    return keys_wanted({key_id for key_id in keys if key_id})
