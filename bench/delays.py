"""The delay between the acknowledgement of a command and a consumer of the ledger having its event."""

import secrets
import time
from collections.abc import Callable, Iterator
from threading import Thread

from redis import Redis

from bench.figures import Figure
from services.keys.commands import KeyCommands
from shared.clock import now_ms
from shared.eventstore.envelope import Request
from shared.eventstore.ledger import Ledger
from shared.identity import ADMIN, Principal
from shared.service.components import new_id
from tests.support.principals import new_key
from tests.support.processes import until

_RATE = 200  # commands per second
_SECONDS = 10
_CALLER = Principal(
    kind="operator", id="bench", label="bench", workspace="default", scopes=frozenset({ADMIN})
)
_REQUEST = Request(id="bench", ip=None, user_agent=None)


def measured(what: str, store: Redis, reached: Callable[[], int], rest_s: float) -> Iterator[Figure]:
    """Polls `reached`, the last position of the consumer, every `rest_s` seconds."""
    delays = sorted(_delays(store, reached, rest_s))
    places = {"median": len(delays) // 2, "p99": len(delays) * 99 // 100, "max": -1}
    for name, place in places.items():
        title = f"delay until {what} at {_RATE} commands/s, {name}"
        yield Figure(title, delays[place] * 1000, unit="ms")


def _delays(store: Redis, reached: Callable[[], int], rest_s: float) -> list[float]:
    """Returns the delay of each command in seconds."""
    acknowledged: dict[int, float] = {}
    seen: dict[int, float] = {}
    total = _RATE * _SECONDS
    commands = KeyCommands(Ledger(store), "kl", secrets.randbelow, new_id, now_ms)
    commands.create(_CALLER, new_key("first"), _REQUEST)
    until(lambda: reached() == 1, 30)  # the consumer is running

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
        done = commands.create(_CALLER, new_key(f"key {number}"), _REQUEST)
        acknowledged[done.position] = time.perf_counter()
    watcher.join()
    return [max(seen[position] - at, 0) for position, at in acknowledged.items()]
