"""The relay alone and with workers: events of the ledger reach the log."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from redis import Redis
from structlog.testing import capture_logs

from services.audit.ingest import relay as relay_module
from services.audit.ingest.job import QUEUE, Requests, catch_up
from services.audit.ingest.relay import Relay
from services.audit.integrity.signer import Signer
from services.audit.integrity.verify_log import Trust, check
from services.audit.log.store import AuditLog
from shared.clock import now_ms
from shared.eventstore.ledger import LOG, Checkpoint, Ledger
from shared.store.connections import connect
from shared.store.embedded import EmbeddedServer
from tests.support.audit_processes import ended, relay, running, started, work
from tests.support.histories import AT, grow, in_step, notary_of
from tests.support.processes import served, until


@pytest.fixture
def requests(store: Redis) -> Requests:
    return Requests(store)


@pytest.fixture
def quick_relay(
    ledger: Ledger, sqlite_log: AuditLog, requests: Requests, monkeypatch: pytest.MonkeyPatch
) -> Relay:
    """A relay that checks on every step and treats a job as lost at once. No checkpoint is due."""
    monkeypatch.setattr(relay_module, "_LOOK_S", 0)
    monkeypatch.setattr(relay_module, "_LAG_S", 0)
    monkeypatch.setattr(relay_module, "is_due", lambda *_: False)
    return Relay(ledger, sqlite_log, requests, now_ms)


def waiting(store: Redis) -> int:
    """The number of queued jobs."""
    return store.llen(f"rq:queue:{QUEUE}")


def blocked(store: Redis) -> int:
    """The number of clients in a blocking read."""
    clients: Any = store.info("clients")
    return int(clients["blocked_clients"])


def requests_a_job(relay: Relay, store: Redis) -> bool:
    """Returns whether a step adds a job to the queue."""
    before = waiting(store)
    relay.step(1)
    return waiting(store) > before


def take(store: Redis) -> None:
    """Removes the jobs from the queue, as if a worker took them or they were lost."""
    store.delete(f"rq:queue:{QUEUE}")


def test_new_events_request_one_job(
    quick_relay: Relay, ledger: Ledger, sqlite_log: AuditLog, store: Redis
) -> None:
    assert not requests_a_job(quick_relay, store)
    grow(ledger, 5)
    assert requests_a_job(quick_relay, store)
    assert waiting(store) == 1
    take(store)
    catch_up(sqlite_log, ledger)
    assert not requests_a_job(quick_relay, store)
    assert waiting(store) == 0


def test_an_incomplete_index_requests_a_job(
    quick_relay: Relay, ledger: Ledger, sqlite_log: AuditLog, store: Redis
) -> None:
    grow(ledger, 5)
    catch_up(sqlite_log, ledger)
    assert not requests_a_job(quick_relay, store)
    with sqlite_log.database.writing() as connection:
        sqlite_log.database.index.start(connection)
    assert requests_a_job(quick_relay, store)
    assert waiting(store) == 1


def test_a_backlog_from_before_the_start_requests_a_job(
    quick_relay: Relay, ledger: Ledger, store: Redis
) -> None:
    grow(ledger, 5)
    assert requests_a_job(quick_relay, store)
    assert waiting(store) == 1


def test_no_second_job_is_requested_while_one_is_queued(
    quick_relay: Relay, ledger: Ledger, store: Redis
) -> None:
    for _ in range(3):
        grow(ledger, 5)
        quick_relay.step(1)
    assert waiting(store) == 1


def test_a_lost_job_is_requested_again(quick_relay: Relay, ledger: Ledger, store: Redis) -> None:
    grow(ledger, 5)
    quick_relay.step(1)
    take(store)
    assert requests_a_job(quick_relay, store)
    assert waiting(store) == 1


def test_a_job_is_not_considered_lost_too_soon(
    ledger: Ledger, sqlite_log: AuditLog, requests: Requests, store: Redis
) -> None:
    slow = Relay(ledger, sqlite_log, requests, now_ms)
    grow(ledger, 5)
    slow.step(1)
    take(store)
    assert not requests_a_job(slow, store)


@pytest.fixture
def vouching_relay(
    ledger: Ledger, sqlite_log: AuditLog, requests: Requests, monkeypatch: pytest.MonkeyPatch
) -> Relay:
    """A relay that checks on every step, an hour after the last checkpoint."""
    monkeypatch.setattr(relay_module, "_LOOK_S", 0)
    return Relay(ledger, sqlite_log, requests, lambda: AT + 3_600_000)


def test_a_due_checkpoint_requests_one_job(
    vouching_relay: Relay, ledger: Ledger, sqlite_log: AuditLog, store: Redis
) -> None:
    grow(ledger, 5)
    catch_up(sqlite_log, ledger)
    assert requests_a_job(vouching_relay, store)
    assert waiting(store) == 1
    take(store)
    assert not requests_a_job(vouching_relay, store)  # it is on its way
    assert waiting(store) == 0


def test_no_checkpoint_is_requested_until_the_log_grows(
    vouching_relay: Relay, ledger: Ledger, sqlite_log: AuditLog, store: Redis, signer: Signer
) -> None:
    grow(ledger, 5)
    catch_up(sqlite_log, ledger)
    notary_of(sqlite_log, ledger, signer, lambda: AT).sign_checkpoint()
    assert [requests_a_job(vouching_relay, store) for _ in range(2)] == [False, False]
    grow(ledger, 1, "key:2")
    catch_up(sqlite_log, ledger)
    assert requests_a_job(vouching_relay, store)


def test_no_checkpoint_is_requested_after_the_ledger_went_backwards(
    vouching_relay: Relay, ledger: Ledger, sqlite_log: AuditLog, store: Redis
) -> None:
    grow(ledger, 5)
    catch_up(sqlite_log, ledger)
    store.xdel(LOG, "0-5")
    assert not requests_a_job(vouching_relay, store)


def test_a_ledger_that_went_backwards_is_logged_once_and_requests_no_job(
    quick_relay: Relay, ledger: Ledger, sqlite_log: AuditLog, store: Redis
) -> None:
    grow(ledger, 5)
    catch_up(sqlite_log, ledger)
    with capture_logs() as lines:
        quick_relay.step(1)
        store.xdel(LOG, "0-5")
        for _ in range(3):
            assert not requests_a_job(quick_relay, store)
        grow(ledger, 9, "key:2")
        assert not requests_a_job(quick_relay, store)
    assert [(line["event"], line["log_level"]) for line in lines] == [("the ledger went backwards", "error")]
    assert (lines[0]["subscription"], lines[0]["position"]) == ("audit relay", 5)
    assert waiting(store) == 0


def test_a_restored_ledger_is_followed_again(
    quick_relay: Relay, ledger: Ledger, sqlite_log: AuditLog, store: Redis
) -> None:
    grow(ledger, 5)
    catch_up(sqlite_log, ledger)
    quick_relay.step(1)
    last = store.dump(LOG)
    store.xdel(LOG, "0-5")
    quick_relay.step(1)
    assert last
    store.restore(LOG, 0, last, replace=True)
    grow(ledger, 1)
    with capture_logs() as lines:
        assert requests_a_job(quick_relay, store)
    assert [line["event"] for line in lines] == ["the ledger holds the audit log's last event again"]


def test_new_events_are_noticed_after_the_ledger_lost_unsaved_ones(
    quick_relay: Relay, ledger: Ledger, sqlite_log: AuditLog, store: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "_LAG_S", 60)
    grow(ledger, 5)
    catch_up(sqlite_log, ledger)
    shorter = store.dump(LOG)
    grow(ledger, 5, "key:2")
    quick_relay.step(1)  # it has seen position 10
    assert shorter
    store.restore(LOG, 0, shorter, replace=True)
    take(store)
    quick_relay.step(1)
    grow(ledger, 1, "key:3")
    take(store)
    assert requests_a_job(quick_relay, store)
    assert waiting(store) == 1


class CountedLog(AuditLog):
    """Counts the reads of its last position."""

    asked = 0

    def last(self) -> Checkpoint:
        self.asked += 1
        return super().last()


@pytest.fixture
def stop() -> Iterator[Event]:
    event = Event()
    yield event
    event.set()


def test_an_unavailable_database_is_retried_and_logged_once(
    ledger: Ledger, requests: Requests, store: Redis, tmp_path: Path, stop: Event
) -> None:
    log = CountedLog(f"sqlite:///{tmp_path / 'later' / 'audit.db'}")
    grow(ledger, 5)
    with capture_logs() as lines, ThreadPoolExecutor(1) as thread:
        run = thread.submit(Relay(ledger, log, requests, now_ms).run, stop)
        until(lambda: log.asked == 4, what="trying again")
        (tmp_path / "later").mkdir()
        until(lambda: waiting(store) == 1, what="asking for a job")
        stop.set()
        run.result(60)
    assert [line["event"] for line in lines] == [
        "subscription interrupted",
        "subscription resumed",
    ]
    assert "later/audit.db" in lines[0]["reason"]
    log.close()


def test_an_idle_relay_stops_on_request(
    valkey_url: str, sqlite_log: AuditLog, requests: Requests, stop: Event
) -> None:
    with connect(valkey_url, timeout=60) as store:
        idle = Thread(target=Relay(Ledger(store), sqlite_log, requests, now_ms).run, args=(stop,))
        idle.start()
        until(lambda: blocked(store) == 1, what="waiting for news")
        stop.set()
        idle.join(60)
        assert not idle.is_alive()


def test_new_events_reach_the_log_and_are_covered_by_a_checkpoint(
    valkey_url: str, database_url: str, log: AuditLog, ledger: Ledger, key_file: Path
) -> None:
    place = (valkey_url, database_url, key_file)
    with running(relay, *place), running(work, *place):
        grow(ledger, 30)
        until(lambda: log.last().position == 30, what="the beginning")
        for _ in range(3):
            grow(ledger, 1)
            until(lambda: in_step(log, ledger), what="the audit log's entry")
        until(lambda: log.last_checkpoint(), what="the first checkpoint")


def test_one_request_catches_up_with_a_large_backlog(
    valkey_url: str, sqlite_url: str, sqlite_log: AuditLog, ledger: Ledger, store: Redis, key_file: Path
) -> None:
    grow(ledger, 25_000)
    with running(work, valkey_url, sqlite_url, key_file):
        Requests(store).ask()  # once
        until(lambda: sqlite_log.last().position == 25_000, what="the end of the backlog")
    assert in_step(sqlite_log, ledger)


def test_killing_relay_or_workers_neither_loses_nor_repeats_events(
    valkey_url: str, sqlite_url: str, sqlite_log: AuditLog, ledger: Ledger, key_file: Path
) -> None:
    kinds = [relay, work, work]
    processes = [started(kind, valkey_url, sqlite_url, key_file) for kind in kinds]
    grow(ledger, 10)
    until(lambda: sqlite_log.last().position == 10, what="the beginning")
    for round_ in range(6):
        grow(ledger, 3_000)
        victim = round_ % 3
        processes[victim].kill()
        processes[victim].join()
        processes[victim] = started(kinds[victim], valkey_url, sqlite_url, key_file)
    until(lambda: in_step(sqlite_log, ledger), what="settling")
    assert [ended(process) for process in processes] == [0, 0, 0]
    assert in_step(sqlite_log, ledger)
    signer = Signer(key_file)
    trust = Trust(signer.public_key, signer.anchor())
    result = check(sqlite_log, ledger, trust, lambda *_: None)
    assert result.findings == []
    assert result.checkpoints >= 2  # one of the first ten, one of 10,000 more


def test_relay_and_worker_continue_after_the_store_restarts(
    short_tmp: Path, sqlite_url: str, sqlite_log: AuditLog, key_file: Path
) -> None:
    server = EmbeddedServer.in_directory(short_tmp / "coming-and-going")
    processes = [started(kind, server.url, sqlite_url, key_file) for kind in (relay, work)]
    for _ in range(2):
        with served(server.command, server.url), connect(server.url) as store:
            ledger = Ledger(store)
            grow(ledger, 5)
            until(partial(in_step, sqlite_log, ledger), what="going on")
    assert all(process.is_alive() for process in processes)
    assert [ended(process) for process in processes] == [0, 0]
