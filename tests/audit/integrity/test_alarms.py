"""A truncated, replaced or restored log raises an alarm, even after it was refilled."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis, ResponseError
from structlog.testing import capture_logs

from services.audit.ingest.job import catch_up
from services.audit.ingest.worker import caught_up
from services.audit.integrity.alarms import Alarms
from services.audit.integrity.findings import Kind
from services.audit.log.store import AuditLog, GapError
from services.audit.status import AuditStatus
from shared.clock import now_ms
from shared.eventstore.ledger import NAMESPACE, Ledger
from tests.support.histories import grow, in_step, notary_of
from tests.support.tampering import Tampered


@pytest.fixture
def full(sqlite_log: AuditLog, ledger: Ledger, alarms: Alarms) -> AuditLog:
    """A log of ten entries with a recorded end mark."""
    grow(ledger, 10)
    catch_up(sqlite_log, ledger)
    alarms.mark_end()
    return sqlite_log


@pytest.fixture
def tampered(sqlite_url: str) -> Iterator[Tampered]:
    way = Tampered(sqlite_url)
    yield way
    way.close()


def delete(way: Tampered, where: str) -> None:
    way.disarm()
    way.run(f"DELETE FROM audit_entries WHERE {where}")  # noqa: S608  # a test's own


def relink_the_last(way: Tampered) -> None:
    way.disarm()
    way.change(10, "entry_hash = previous_hash")


@pytest.mark.parametrize(
    ("tamper", "kind", "position"),
    [
        (lambda way: delete(way, "position > 6"), Kind.CUT_OFF, 7),
        (lambda way: delete(way, "position = 10"), Kind.CUT_OFF, 10),
        (lambda way: delete(way, "true"), Kind.CUT_OFF, 1),
        (relink_the_last, Kind.REWRITTEN, 10),
    ],
    ids=["the end cut off", "the last entry deleted", "all entries deleted", "the last entry replaced"],
)
def test_a_log_that_went_backwards_raises_an_alarm(
    full: AuditLog,
    ledger: Ledger,
    alarms: Alarms,
    tampered: Tampered,
    tamper: Callable[[Tampered], None],
    kind: Kind,
    position: int,
) -> None:
    assert alarms.current() is None
    tamper(tampered)
    seen = alarms.current()  # also before the worker comes to it
    assert seen
    assert (seen.finding.kind, seen.finding.position) == (kind, position)
    with capture_logs() as lines:
        alarms.report_if_backwards()
    assert [(line["event"], line["log_level"], line["kind"]) for line in lines] == [
        ("audit log alarm", "error", kind.value)
    ]
    catch_up(full, ledger)
    alarms.mark_end()
    stays = alarms.current()
    assert stays
    assert stays.finding == seen.finding


def test_a_growing_log_raises_no_alarm(full: AuditLog, ledger: Ledger, alarms: Alarms) -> None:
    grow(ledger, 5)
    catch_up(full, ledger)  # and the worker is killed before it marks the end
    alarms.report_if_backwards()
    assert alarms.current() is None
    alarms.mark_end()
    assert alarms.current() is None


@pytest.mark.parametrize(("is_deleted", "position"), [(False, 6), (True, 1)], ids=["restored", "deleted"])
def test_a_deleted_or_restored_database_raises_an_alarm(
    ledger: Ledger, store: Redis, tmp_path: Path, is_deleted: bool, position: int
) -> None:
    def work(events: int) -> Alarms:
        """What the worker does after some more events."""
        grow(ledger, events)
        log = AuditLog(f"sqlite:///{tmp_path / 'audit.db'}")
        alarms = Alarms(store, log, now_ms)
        caught_up(log, ledger, alarms)
        assert in_step(log, ledger)
        log.close()
        return alarms

    work(5)
    shutil.copy(tmp_path / "audit.db", tmp_path / "copy")
    assert work(5).current() is None
    (tmp_path / "audit.db").unlink()
    if not is_deleted:
        shutil.copy(tmp_path / "copy", tmp_path / "audit.db")
    alarms = work(1)
    found = alarms.current()
    assert found
    assert (found.finding.kind, found.finding.position) == (Kind.CUT_OFF, position)
    alarms.acknowledge()
    assert work(1).current() is None


def test_a_log_truncated_between_two_pages_of_a_job_raises_an_alarm(
    full: AuditLog, ledger: Ledger, alarms: Alarms, tampered: Tampered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.audit.ingest.job.PAGE", 5)
    grow(ledger, 10)
    append = full.append

    def cut(records: Any) -> int:
        appended = append(records)
        delete(tampered, "position > 12")
        return appended

    monkeypatch.setattr(full, "append", cut)
    with pytest.raises(GapError, match="position 13 next"):
        caught_up(full, ledger, alarms)
    found = alarms.current()
    assert found
    assert (found.finding.kind, found.finding.position) == (Kind.CUT_OFF, 13)


@pytest.mark.parametrize("stored", [b"", b"[1]", b'["x","y"]', b"\xff"])
def test_an_unreadable_end_mark_or_alarm_raises_an_alarm(alarms: Alarms, store: Redis, stored: bytes) -> None:
    for key in ("end", "alarm"):
        store.set(f"{NAMESPACE}:audit:{key}", stored)
        found = alarms.current()
        assert found
        assert "can't be read" in found.finding.detail


def test_a_missing_signed_checkpoint_raises_an_alarm(
    audit_status: AuditStatus, full: AuditLog, ledger: Ledger, tampered: Tampered
) -> None:
    notary_of(full, ledger, audit_status.signer, now_ms).sign_checkpoint()
    assert audit_status.alarm() is None
    tampered.disarm()
    tampered.run("DELETE FROM audit_checkpoints")
    found = audit_status.alarm()
    assert found
    assert (found.finding.kind, found.finding.position) == (Kind.CHECKPOINT_MISSING, 1)


@pytest.mark.parametrize("name", ["end", "alarm"])
def test_a_mark_or_alarm_of_the_wrong_redis_type_does_not_stop_the_log(
    full: AuditLog, ledger: Ledger, alarms: Alarms, store: Redis, name: str
) -> None:
    store.delete(f"{NAMESPACE}:audit:{name}")
    store.rpush(f"{NAMESPACE}:audit:{name}", "x")
    grow(ledger, 3)
    caught_up(full, ledger, alarms)
    assert in_step(full, ledger)
    found = alarms.current()
    assert found
    assert "can't be read" in found.finding.detail
    alarms.acknowledge()
    assert alarms.current() is None


def test_a_store_error_while_raising_an_alarm_does_not_stop_the_log(
    full: AuditLog, ledger: Ledger, alarms: Alarms, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise ResponseError("OOM command not allowed")

    monkeypatch.setattr(alarms, "report_if_backwards", refuse)
    grow(ledger, 3)
    with capture_logs() as lines:
        caught_up(full, ledger, alarms)
    assert in_step(full, ledger)
    assert [line["log_level"] for line in lines if "backwards" in line["event"]] == ["error"]
