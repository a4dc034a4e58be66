"""Appending events. The floor is a plain XADD of the same bytes."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from bench.events import event_of
from bench.figures import Figure, paired
from bench.store import fresh_store
from shared.eventstore.codec import encode
from shared.eventstore.ledger import Ledger
from shared.store.connections import connect

_EVENTS = 4_000


def figures() -> Iterator[Figure]:
    """Measures one writer, and eight in parallel."""
    for writers in (1, 8):
        with fresh_store() as url:
            yield _figure(url, writers)


def _figure(url: str, writers: int) -> Figure:
    each = _EVENTS // writers

    def bare(_: int) -> None:
        with connect(url) as store:
            for _ in range(each):
                store.xadd("bare", {"at": 1, "event": encode(event_of(uuid.uuid4().hex[:12], 1))}, id="0-*")

    def through(_: int) -> None:
        with connect(url) as store:
            ledger = Ledger(store)
            for _ in range(each):
                key_id = uuid.uuid4().hex[:12]
                ledger.append(f"key:{key_id}", [event_of(key_id, 1)], 0)

    with ThreadPoolExecutor(writers) as pool:
        return paired(
            f"append, {writers} writer{'s' * (writers > 1)}, fsync always",
            each * writers,
            lambda: [*pool.map(through, range(writers))],
            lambda: [*pool.map(bare, range(writers))],
        )
