"""Catching up with the ledger, and requesting it."""

import json
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis import Redis
from structlog.testing import capture_logs

from services.audit.ingest.job import (
    FUNCTION,
    PAGE,
    QUEUE,
    QUEUED_TTL_S,
    LedgerWentBackwardsError,
    Requests,
    catch_up,
    refusal,
)
from services.audit.log.store import AuditLog
from shared.eventstore.codec import open_envelope
from shared.eventstore.ledger import Ledger
from tests.support.histories import grow, in_step


def positions(log: AuditLog) -> list[int]:
    return [entry.position for entry in log.walk(2**62)]


def test_catching_up_brings_the_log_to_the_ledgers_head(sqlite_log: AuditLog, ledger: Ledger) -> None:
    assert catch_up(sqlite_log, ledger) is False
    grow(ledger, 2 * PAGE + 5)
    assert catch_up(sqlite_log, ledger) is False
    assert in_step(sqlite_log, ledger)
    grow(ledger, 1)
    catch_up(sqlite_log, ledger)
    assert in_step(sqlite_log, ledger)


def test_a_job_ends_after_its_page_limit_and_reports_remaining_events(
    sqlite_log: AuditLog, ledger: Ledger
) -> None:
    grow(ledger, 2 * PAGE + 5)
    assert catch_up(sqlite_log, ledger, pages=2) is True
    assert sqlite_log.last().position == 2 * PAGE
    assert catch_up(sqlite_log, ledger, pages=2) is False
    assert in_step(sqlite_log, ledger)


def test_concurrent_jobs_write_each_event_once(database_url: str, ledger: Ledger) -> None:
    grow(ledger, 300)
    logs = [AuditLog(database_url) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda log: catch_up(log, ledger), logs))
    assert in_step(logs[0], ledger)
    for log in logs:
        log.close()


@pytest.mark.parametrize("replaced", [False, True])
def test_nothing_is_written_when_the_ledger_went_backwards(
    sqlite_log: AuditLog, ledger: Ledger, store: Redis, replaced: bool
) -> None:
    grow(ledger, 5)
    catch_up(sqlite_log, ledger)
    store.flushall()
    grow(ledger, 9 if replaced else 3)
    with pytest.raises(LedgerWentBackwardsError, match="position 5"):
        catch_up(sqlite_log, ledger)
    assert positions(sqlite_log) == [1, 2, 3, 4, 5]


def test_a_ledger_replaced_between_two_pages_is_detected(
    sqlite_log: AuditLog, ledger: Ledger, store: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(ledger, PAGE + 5)
    append = sqlite_log.append

    def exchange(page: Any) -> int:
        appended = append(page)
        store.flushall()
        grow(ledger, PAGE + 5)
        return appended

    monkeypatch.setattr(sqlite_log, "append", exchange)
    with pytest.raises(LedgerWentBackwardsError):
        catch_up(sqlite_log, ledger)
    assert sqlite_log.last().position == PAGE


def test_each_page_is_logged_in_one_line(sqlite_log: AuditLog, ledger: Ledger) -> None:
    grow(ledger, 3)
    with capture_logs() as lines:
        catch_up(sqlite_log, ledger)
    assert lines == [
        {
            "event": "appended to the audit log",
            "events": 3,
            "position": 3,
            "requests": [open_envelope(record).request.id for record in ledger.read(0, 3)],
            "log_level": "info",
        },
    ]


def test_a_log_line_for_many_events_lists_no_request_ids(sqlite_log: AuditLog, ledger: Ledger) -> None:
    grow(ledger, 21)
    with capture_logs() as lines:
        catch_up(sqlite_log, ledger)
    assert (lines[0]["events"], lines[0]["requests"]) == (21, [])


def test_only_one_catch_up_request_is_queued(store: Redis) -> None:
    requests = Requests(store)
    assert [requests.ask() for _ in range(3)] == [True, False, False]
    assert store.llen(f"rq:queue:{QUEUE}") == 1


def test_a_catch_up_request_has_no_arguments_and_expires(store: Redis) -> None:
    Requests(store).ask()
    (key,) = store.scan_iter("rq:job:*")
    fields: Any = store.hgetall(key)
    assert json.loads(zlib.decompress(fields[b"data"])) == [FUNCTION, None, [], {}]
    assert refusal(fields) is None
    assert 0 < store.ttl(key) <= QUEUED_TTL_S
