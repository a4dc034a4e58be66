"""A new consumer of the ledger, built only on a subscription."""

from collections import Counter
from pathlib import Path
from threading import Event as Stop
from threading import Thread

import pytest
from redis import Redis
from structlog.testing import capture_logs

from shared.eventstore.codec import open_envelope
from shared.eventstore.ledger import LOG, Ledger
from shared.eventstore.subscription import Batch, Pace, StoredCheckpoint, Subscription
from shared.store.connections import connect
from shared.store.embedded import EmbeddedServer
from tests.support.histories import grow
from tests.support.processes import served, until

_COUNTS = "{kl:0}:test:counts"
_PACE = Pace(page=3, wait_ms=50, retry_s=(0.01, 0.05))


class EventCounter:
    """Counts the events of each type, in Redis."""

    def __init__(self, store: Redis) -> None:
        self.store = store
        self.checkpoint = StoredCheckpoint(store, "{kl:0}:test:checkpoint")
        self.subscription = Subscription(
            Ledger(store), "counter", self.checkpoint, self._count, self._forget, pace=_PACE
        )

    def counted(self) -> int:
        """The number of counted events of all types."""
        return sum(map(int, self.store.hvals(_COUNTS)))

    def _count(self, batch: Batch) -> bool:
        types = Counter(open_envelope(record).type for record in batch.records)

        def write(pipe: Redis) -> None:
            for type_, number in types.items():
                pipe.hincrby(_COUNTS, type_, number)

        return self.checkpoint.save(batch.after, batch.reached, write)

    def _forget(self) -> None:
        self.store.delete(_COUNTS, self.checkpoint.key)


@pytest.fixture
def counter(any_store: Redis) -> EventCounter:
    return EventCounter(any_store)


def test_a_consumer_handles_each_event_once(counter: EventCounter) -> None:
    ledger = Ledger(counter.store)
    grow(ledger, 10)
    counter.subscription.catch_up()
    assert (counter.counted(), counter.subscription.position) == (10, 10)
    grow(ledger, 4, "key:2")
    assert counter.subscription.lag(0).events == 4
    EventCounter(counter.store).subscription.catch_up()
    counter.subscription.catch_up()
    assert (counter.counted(), counter.subscription.position) == (14, 14)


def test_a_batch_that_another_process_handled_first_is_not_saved(counter: EventCounter) -> None:
    grow(Ledger(counter.store), 2)
    save, rival = counter.checkpoint.save, EventCounter(counter.store)

    def overtaken(batch: Batch) -> bool:
        rival.subscription.catch_up()
        return save(batch.after, batch.reached, lambda pipe: pipe.hincrby(_COUNTS, "twice", 1))

    slow = Subscription(Ledger(counter.store), "slow", counter.checkpoint, overtaken, pytest.fail, pace=_PACE)
    assert slow.step(1) == 0
    assert slow.caught_up_at == float("-inf")
    assert counter.counted() == 2


@pytest.mark.parametrize("grown", [0, 5], ids=["shorter", "grown past it"])
def test_a_consumer_starts_over_when_the_ledger_went_backwards(counter: EventCounter, grown: int) -> None:
    ledger = Ledger(counter.store)
    grow(ledger, 3)
    copy = counter.store.dump(LOG)
    grow(ledger, 2, "key:2")
    counter.subscription.catch_up()
    assert copy
    counter.store.restore(LOG, 0, copy, replace=True)
    counter.store.delete("{kl:0}:subject:key:2")
    if grown:
        grow(ledger, grown, "key:3")
    with capture_logs() as lines:
        assert counter.subscription.step(1) == 0
    assert counter.subscription.caught_up_at == float("-inf")
    assert [line["event"] for line in lines] == ["the ledger went backwards"]
    counter.subscription.catch_up()
    assert (counter.counted(), counter.subscription.position) == (3 + grown, 3 + grown)


def test_a_consumer_waits_for_an_unavailable_store_and_logs_the_outage_once(short_tmp: Path) -> None:
    server = EmbeddedServer.in_directory(short_tmp / "coming-and-going")
    store = connect(server.url, timeout=5)
    counter, stop = EventCounter(store), Stop()
    running = Thread(target=counter.subscription.run, args=(stop,))
    with capture_logs() as lines:
        running.start()
        try:
            for expected in (4, 8):
                until(lambda: counter.subscription.last_error is not None, what="the outage")
                assert counter.subscription.caught_up_at == float("-inf")
                with served(server.command, server.url):
                    grow(Ledger(store), 4, f"key:{expected}")
                    until(lambda: counter.counted() == expected, what="going on")  # noqa: B023
                    until(lambda: counter.subscription.last_error is None, what="the end of the outage")
        finally:
            stop.set()
            running.join(60)
    events = [line["event"] for line in lines if line.get("subscription") == "counter"]
    assert events.count("subscription resumed") == 2
    assert 2 <= events.count("subscription interrupted") <= 6  # once for each kind of error
