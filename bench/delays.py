"""How long after a command is acknowledged a reader of the ledger has its event."""

import secrets
import time
from collections.abc import Callable, Iterator
from threading import Thread

from redis import Redis

from bench.figures import Figure
from services.keys.commands import KeyCommands, NewKey
from shared.clock import now_ms
from shared.eventstore.events import Request
from shared.eventstore.ledger import Ledger
from shared.identity import ADMIN, Principal
from shared.service.components import new_id
from tests.real import until

_RATE = 200  # commands a second
_SECONDS = 10
_CALLER = Principal(
    kind="operator", id="bench", label="bench", workspace="default", scopes=frozenset({ADMIN})
)
_REQUEST = Request(id="bench", ip=None, user_agent=None)


def measured(what: str, store: Redis, reached: Callable[[], int], rest_s: float) -> Iterator[Figure]:
    """`reached` is the last position that the reader has; it is asked every `rest_s` seconds."""
    delays = sorted(_delays(store, reached, rest_s))
    places = {"median": len(delays) // 2, "p99": len(delays) * 99 // 100, "worst": -1}
    for name, place in places.items():
        told = f"acknowledged to {what} at {_RATE} commands/s, {name}"
        yield Figure(told, delays[place] * 1000, unit="ms")


def _delays(store: Redis, reached: Callable[[], int], rest_s: float) -> list[float]:
    """In seconds, one for each command."""
    acknowledged: dict[int, float] = {}
    seen: dict[int, float] = {}
    total = _RATE * _SECONDS
    commands = KeyCommands(Ledger(store), "kl", secrets.randbelow, new_id, now_ms)
    commands.create(_CALLER, NewKey(name="first"), _REQUEST)
    until(lambda: reached() == 1, 30)  # the reader runs

    def watch() -> None:
        last = 1
        while last <= total:
            position = reached()
            seen.update(dict.fromkeys(range(last + 1, position + 1), time.perf_counter()))
            last = max(last, position)
            time.sleep(rest_s)

    watcher = Thread(target=watch)
    watcher.start()
    begin = time.perf_counter()
    for number in range(total):
        time.sleep(max(begin + number / _RATE - time.perf_counter(), 0))
        done = commands.create(_CALLER, NewKey(name=f"key {number}"), _REQUEST)
        acknowledged[done.position] = time.perf_counter()
    watcher.join()
    return [max(seen[position] - at, 0) for position, at in acknowledged.items()]
