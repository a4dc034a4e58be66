"""Rebuilding and checking the views. The floor is reading the events and writing the rows."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from redis import Redis

from bench.events import event_of
from bench.figures import Figure
from bench.store import fresh_store
from services.keys.read_model.generations import Generation, Views
from services.keys.read_model.rebuild import build
from services.keys.read_model.rebuild import replay as replaying
from shared.eventstore.codec import encode
from shared.eventstore.ledger import LOG, NAMESPACE, Ledger
from shared.store.connections import connect
from tests.support.processes import until

_SIZES = (10_000, 100_000, 1_000_000)
_LAG = 50_000  # keys created before a key is disabled, so that its row must be read again
_PAGE = 1_000  # of the floor, which is slower with a rebuild's page size


def figures() -> Iterator[Figure | str]:
    """Measures each size, and for the largest also the check and memory usage."""
    costs = []
    for size in _SIZES:
        with fresh_store() as url, connect(url, timeout=60) as store:
            empty = _memory(store)
            _fill(store, size)
            ledger, views = Ledger(store), Views(store)
            # Otherwise, a rewrite of the file could slow down either measurement.
            store.config_set("auto-aof-rewrite-percentage", 0)
            until(lambda: not store.info("persistence")["aof_rewrite_in_progress"])
            took = _replay(ledger, views)
            costs.append(took / size)
            per_key = (_memory(store) - empty) / (size // 2)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            with _recorded() as packed:
                replaying.replay(ledger, views)
            if size == _SIZES[-1]:
                start = time.perf_counter()
                assert replaying.check(ledger, views).equal
                checked = time.perf_counter() - start
            views.live().delete()
            floor = _floor(store, packed)
            yield Figure(f"replay, {size:,} events", size / took, size / floor)
    yield Figure(f"replay --check, {size:,} events", size / checked, size / floor)
    what = f"replay, time per event of {_SIZES[-1]:,} (floor: of {_SIZES[0]:,})"
    yield Figure(what, costs[-1] * 1e6, costs[0] * 1e6, "µs")
    yield Figure("replay, store memory per key with two events", per_key, unit="bytes")
    yield Figure(f"replay, peak memory of the process with {_SIZES[-1]:,} events", peak, unit="MiB")


def _replay(ledger: Ledger, views: Views) -> float:
    start = time.perf_counter()
    replaying.replay(ledger, views)
    return time.perf_counter() - start - replaying._OLD_GENERATION_S


@contextmanager
def _recorded() -> Iterator[list[bytes]]:
    """Records the bytes of the rows that a replay writes, page by page."""
    packed: list[bytes] = []
    commands = Generation.commands

    def record(self: Generation, *page: Any, **how: Any) -> list[tuple[Any, ...]]:
        written = [*commands(self, *page, **how)]
        connection = cast("Any", self.store.connection_pool.get_connection())
        packed.append(b"".join(connection.pack_commands([written[0]])))
        self.store.connection_pool.release(connection)
        return written

    Generation.commands = record  # type: ignore[method-assign,assignment]  # only observes
    try:
        yield packed
    finally:
        Generation.commands = commands  # type: ignore[method-assign]


def _floor(store: Redis, packed: list[bytes]) -> float:
    """Returns the seconds it takes to read every event and write every row, without any processing."""
    connection = cast("Any", store.connection_pool.get_connection())
    store = Redis(connection_pool=store.connection_pool)
    store.set_response_callback("XRANGE", lambda reply, **_: reply)
    together = _PAGE // build._PAGE
    pages = [b"".join(packed[first : first + together]) for first in range(0, len(packed), together)]
    answers = [min(together, len(packed) - first) for first in range(0, len(packed), together)]
    start, after = time.perf_counter(), "0-0"
    for rows, expected in zip(pages, answers, strict=True):
        after = cast("Any", store.xrange(LOG, min=f"({after}", count=_PAGE))[-1][0].decode()
        connection.send_packed_command([rows])
        for _ in range(expected):
            connection.read_response()
    return time.perf_counter() - start


def _fill(store: Redis, size: int) -> None:
    """Adds half as many keys as events. Each is created, and later disabled."""
    keys = size // 2
    lag = min(_LAG, keys // 4)
    order = (
        (f"{n - back:012d}", version)
        for n in range(keys + lag)
        for back, version in ((0, 1), (lag, 2))
        if 0 <= n - back < keys
    )
    pipe = store.pipeline(transaction=False)
    for position, (key_id, version) in enumerate(order, 1):
        body = encode(event_of(key_id, version))
        pipe.xadd(LOG, {"at": 1_790_000_000_000 + position, "event": body}, id="0-*")
        pipe.rpush(f"{NAMESPACE}:subject:key:{key_id}", position)
        if position % _PAGE == 0:
            pipe.execute()


def _memory(store: Redis) -> int:
    return cast("dict[str, int]", store.info("memory"))["used_memory"]
