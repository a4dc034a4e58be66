"""From acknowledged to visible: how long after its acknowledgement an event is in the views."""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from threading import Thread

from bench.store import fresh_store
from services.composition import new_id, now_ms
from services.keys.commands import KeyCommands, NewKey
from services.keys.views import Views
from shared.connections import connect
from shared.events import Request
from shared.identity import ADMIN, Principal
from shared.ledger import Ledger
from tests.real import until

_RATE = 200  # commands a second
_SECONDS = 10
_CALLER = Principal(
    kind="operator", id="bench", label="bench", workspace="default", scopes=frozenset({ADMIN})
)
_REQUEST = Request(id="bench", ip=None, user_agent=None)


def figures() -> Iterator[str]:
    """The median and the 99th percentile, with the projector as a process of its own."""
    with fresh_store() as url:
        environment = os.environ | {"KEYLEDGER_REDIS_URL": url, "KEYLEDGER_SECRET_KEY": "s" * 32}
        command = [sys.executable, "-m", "services.cli", "projector"]
        with subprocess.Popen(command, env=environment) as projector:
            try:
                delays = sorted(_delays(url))
            finally:
                projector.terminate()
    median, p99 = delays[len(delays) // 2], delays[len(delays) * 99 // 100]
    yield (
        f"acknowledged to visible at {_RATE} commands/s: median {median * 1000:.1f} ms, "
        f"p99 {p99 * 1000:.1f} ms, worst {delays[-1] * 1000:.1f} ms"
    )


def _delays(url: str) -> list[float]:
    """In seconds, one for each command."""
    acknowledged: dict[int, float] = {}
    visible: dict[int, float] = {}
    total = _RATE * _SECONDS
    with connect(url) as writing, connect(url) as reading:
        commands = KeyCommands(Ledger(writing), "kl", secrets.randbelow, new_id, now_ms)
        views = Views(reading)
        commands.create(_CALLER, NewKey(name="first"), _REQUEST)
        until(lambda: views.live().checkpoint().position == 1)  # the projector runs

        def watch() -> None:
            seen = 1
            while seen <= total:
                position = views.live().checkpoint().position
                visible.update(dict.fromkeys(range(seen + 1, position + 1), time.perf_counter()))
                seen = max(seen, position)
                time.sleep(0.0005)

        watcher = Thread(target=watch)
        watcher.start()
        begin = time.perf_counter()
        for number in range(total):
            time.sleep(max(begin + number / _RATE - time.perf_counter(), 0))
            done = commands.create(_CALLER, NewKey(name=f"key {number}"), _REQUEST)
            acknowledged[done.position] = time.perf_counter()
        watcher.join()
    return [max(visible[position] - at, 0) for position, at in acknowledged.items()]
