"""Search in an audit log of 1,000,000 entries: the first page for each filter.

The times include the database's, and looking up the names of the keys that were found. The floor is reading
the newest rows. PostgreSQL is measured if it's installed.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from statistics import median
from typing import Any

import pytest

from bench.figures import Figure
from services.audit.log.audit_entry import parse_entry
from services.audit.log.filters import Filters
from services.audit.log.search import TooManyKeysError
from services.audit.log.store import AuditLog
from shared.eventstore.codec import encode
from shared.eventstore.envelope import Actor, Record, Request, enveloped
from shared.eventstore.events import KeyCreated, KeyToggled
from shared.eventstore.payload import Payload
from tests.support.postgresql import postgresql_cluster

_ENTRIES = 1_000_000
_PAGE = 1_000
_LIMIT = 50
_ROUNDS = 5
_START = 1_700_000_000_000  # then one entry per second
_NAMES = ("billing", "checkout", "orders", "search", "mobile", "partner", "nightly", "staging", "metrics")
_DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_MIDDLE = _ENTRIES // 2

# Common, rare and absent values of each filter, words in the older half only, and combinations.
_CASES: dict[str, dict[str, Any]] = {
    "none": {},
    "key": {"key_id": f"{_MIDDLE // 2:012x}"},
    "name": {"name": f"{_MIDDLE // 2}"},
    "name of too many keys": {"name": "billing"},
    "actor": {"actor": "p3@example.org"},
    "actor, rare": {"actor": "p20@example.org"},
    "type": {"type": "KeyToggled"},
    "type, no match": {"type": "KeyRevoked"},
    "IP address": {"ip": "192.0.2.1"},
    "IP address, rare": {"ip": "192.0.2.200"},
    "since": {"since": _START + _ENTRIES * 900},
    "until": {"until": _START + _ENTRIES * 300},
    "word": {"q": "billing"},
    "word, rare": {"q": "leaked"},
    "word in the older half": {"q": "old"},
    "words, no match together": {"q": "old leaked python"},
    "word, no match": {"q": "zebra"},
    "combined": {"actor": "p3@example.org", "type": "KeyCreated", "ip": "192.0.2.4", "q": "search"},
    "combined, no match": {"actor": "p3@example.org", "type": "KeyCreated", "q": "old"},
    "word, small workspace": {"workspace": "small", "q": "billing"},
    "empty workspace": {"workspace": "nobody", "q": "billing"},
}


def figures() -> Iterator[Figure]:
    """Measures SQLite and PostgreSQL."""
    with tempfile.TemporaryDirectory(prefix="kl-bench-") as directory:
        yield from _figures("SQLite", f"sqlite:///{directory}/audit.db")
    with suppress(pytest.skip.Exception), postgresql_cluster() as socket:
        yield from _figures("PostgreSQL", f"postgresql://keyledger@/postgres?host={socket}")


def _figures(name: str, url: str) -> Iterator[Figure]:
    log = AuditLog(url)
    start = time.perf_counter()
    for first in range(0, _ENTRIES, _PAGE):
        log.append([_record(number) for number in range(first, first + _PAGE)])
    rate = _ENTRIES / (time.perf_counter() - start)
    yield Figure(f"{name}, appending {_ENTRIES:,} audit entries with their index", rate)
    floor = _time(lambda: list(log.walk(_ENTRIES, _ENTRIES - _LIMIT - 1)))
    times = {case: _time(partial(_search, log, of)) for case, of in _CASES.items()}
    usual = median(times.values())
    yield Figure(f"{name}, first page, median of all filters", usual * 1000, floor * 1000, "ms")
    for case, took in sorted(times.items(), key=lambda each: -each[1])[:4]:
        yield Figure(f"{name}, first page, slowest filters: {case}", took * 1000, floor * 1000, "ms")
    drawn = {case: _time(partial(_draw, log, of)) for case, of in _CASES.items()}
    yield Figure(f"{name}, slowest chart", max(drawn.values()) * 1000, floor * 1000, "ms")
    log.close()


def _search(log: AuditLog, of: dict[str, Any]) -> None:
    with suppress(TooManyKeysError):
        page = log.search.page(Filters(**{"workspace": "default"} | of), _LIMIT)
        keys = {parse_entry(entry).event.key_id for entry in page.entries}
        log.search.key_names("default", filter(None, keys))


def _draw(log: AuditLog, of: dict[str, Any]) -> None:
    with suppress(TooManyKeysError):
        log.search.activity(Filters(**{"workspace": "default"} | of))


def _time(work: Callable[[], object]) -> float:
    """Returns the median duration in seconds."""
    took = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return median(took)


def _record(number: int) -> Record:
    """Returns an event of a key that is created and then disabled, by a few active people and many others."""
    key_id = f"{number // 2:012x}"
    actor = f"p{number % 7 if number % 1000 else 7 + number // 1000 % 43}@example.org"
    event = enveloped(
        [_payload(number, key_id)],
        subject=f"key:{key_id}",
        after_version=number % 2,
        workspace="default" if number % 100 else "small",
        actor=Actor(kind="account", id=f"account:{actor}", label=actor),
        request=Request(
            id=f"6f1c2a9be2d14ef0a3c5{number:012x}",
            ip=f"192.0.2.{number % 5 if number % 997 else 200}",
            user_agent="python-requests/2.34",
        ),
        new_id=lambda: f"e{number:031x}",
    )[0]
    return Record(number + 1, _START + number * 1000, encode(event))


def _payload(number: int, key_id: str) -> Payload:
    key = number // 2
    if number % 2:
        rare = "leaked" if number % 5000 == 1 else ""
        return KeyToggled(enabled=False, reason="old" if number < _MIDDLE else rare)
    return KeyCreated(
        name=f"{_NAMES[key % 9]} {_NAMES[key // 9 % 9]} {key}",
        description="",
        prefix="kl",
        hint=f"kl_{key_id[:4]}…x7Qz",
        digest=_DIGEST,
        scopes=("orders:read",),
        expires_at=None,
    )
