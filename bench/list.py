"""The list of 100,000 keys in one workspace: the first page for each kind of query.

The times include the store's. The floor is reading as many rows by their IDs. The store's slow log shows the
slowest command.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any, NamedTuple

from redis import Redis

from bench.events import created, event_with
from bench.figures import Figure
from bench.store import fresh_store
from services.keys.model.key import STATUSES, Key
from services.keys.read_model.criteria import ALL, SORTS, Criteria, Sort
from services.keys.read_model.generations import Views
from services.keys.read_model.rebuild.replay import replay
from shared.eventstore.codec import encode
from shared.eventstore.envelope import NewEvent
from shared.eventstore.events import KeyRevoked, KeyToggled
from shared.eventstore.ledger import LOG, Ledger
from shared.store.connections import connect
from tests.support.processes import until

_KEYS = 100_000
_LIMIT = 50
_ROUNDS = 15
_SLOW_US = 100  # slower commands are in the store's slow log
_START = 1_790_000_000_000


class _Times(NamedTuple):
    """Durations in ms."""

    middle: float
    worst: float


def figures() -> Iterator[Figure]:
    """Measures each page, and the store's slowest commands."""
    with fresh_store() as url, connect(url, timeout=60) as store:
        _fill(store)
        store.config_set("auto-aof-rewrite-percentage", 0)
        until(lambda: not store.info("persistence")["aof_rewrite_in_progress"])
        store.config_set("slowlog-log-slower-than", _SLOW_US)
        store.config_set("slowlog-max-len", 10_000)
        store.slowlog_reset()
        replay(Ledger(store), Views(store))
        what = f"slowest store command while projecting {_KEYS:,} keys"
        yield Figure(what, _slowest(store), unit="ms")
        store.slowlog_reset()
        yield from _pages(Views(store))
        yield Figure("slowest store command for these lists", _slowest(store), unit="ms")


def _pages(views: Views) -> Iterator[Figure]:
    ids = [key.id for key in _read(views)]
    floor = _timed(partial(views.live().rows, ids)).middle  # as many rows by their IDs
    worst = 0.0
    for name, criteria in _queries():
        times = _timed(partial(_read, views, criteria))
        worst = max(worst, times.worst)
        yield Figure(f"list of {_KEYS:,} keys: {name}, median", times.middle, floor, "ms")
    yield Figure(f"list of {_KEYS:,} keys: slowest page", worst, floor, "ms")


def _read(views: Views, criteria: Criteria = ALL) -> list[Key]:
    return views.page("default", _LIMIT, None, criteria).keys


def _queries() -> Iterator[tuple[str, Criteria]]:
    searches = {
        "a word in every name": "serv",
        "a word in adjacent names, one in nine": "1",
        "a word in the older half": "elder",
        "a rare word": "rare",
        "a rare and a common word": "serv 4711",
        "a word in no name": "nothing",
    }
    sorts: tuple[Sort, ...] = ("-created_at", "created_at", "-name", "hint")
    for sort in SORTS:
        yield f"all, sorted by {sort}", Criteria(sort=sort)
    for what, search in searches.items():
        for sort in sorts:
            yield f"{what}, sorted by {sort}", Criteria(search, None, sort)
    for status in STATUSES:
        for sort in sorts:
            yield f"{status}, sorted by {sort}", Criteria("", status, sort)
    yield "a word in the older half, active, sorted by created_at", Criteria("elder", "active", "created_at")


def _timed(read: Callable[[], object]) -> _Times:
    took = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        read()
        took.append((time.perf_counter() - start) * 1000)
    return _Times(median(took), max(took))


def _slowest(store: Redis) -> float:
    """Returns the duration in ms of the slowest command, or the slow log's threshold if all were faster."""
    noted: list[dict[str, Any]] = store.slowlog_get(10_000)
    slowest: int = max([_SLOW_US, *(command["duration"] for command in noted)])
    return slowest / 1000


def _fill(store: Redis) -> None:
    """Adds keys, oldest first. One in ten is disabled, one in ten revoked, and one in ten expired."""
    pipe = store.pipeline(transaction=False)
    position = 0
    for number in range(1, _KEYS + 1):
        for event in _life(number):
            position += 1
            pipe.xadd(LOG, {"at": _START + position, "event": encode(event)}, id="0-*")
        if number % 1_000 == 0:
            pipe.execute()


def _life(number: int) -> Iterator[NewEvent]:
    key_id = f"{number * 7_919 % 1_000_003:012d}"
    name = f"Service {number}{' elder' * (number * 2 <= _KEYS)}{' rare' * (number % 5_000 == 17)}"
    yield event_with(key_id, 1, created(key_id, name, _START if number % 10 == 3 else None))
    if number % 10 == 1:
        yield event_with(key_id, 2, KeyToggled(enabled=False, reason=""))
    if number % 10 == 2:
        yield event_with(key_id, 2, KeyRevoked(reason=""))
