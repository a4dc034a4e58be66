"""The audit log's status, as reported to users, programs and monitoring."""

import zlib
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis
from rq import Queue
from rq.job import JobStatus
from rq.serializers import JSONSerializer

from services.audit.ingest.failures import Failures
from services.audit.ingest.job import FUNCTION, QUEUE, catch_up
from services.audit.integrity.signer import Signer
from services.audit.log.store import AuditLog
from services.audit.status import CHECKS, AuditStatus
from shared.clock import now_ms
from shared.eventstore.command_handler import Journal
from shared.eventstore.envelope import Actor, Request
from shared.eventstore.events import AuditChecked, AuditFinding
from shared.eventstore.ledger import Ledger
from tests.support.audit_processes import running, work
from tests.support.histories import AT, grow, notary_of
from tests.support.processes import until

ROOT = Actor(kind="operator", id="root", label="root (command line)")
FINDING = AuditFinding(kind="changed", count=2, position=7, detail="entry_hash")


@pytest.fixture
def tell(ledger: Ledger) -> Callable[..., None]:
    """Records a check in the ledger."""
    journal = Journal(ledger, iter(f"check-{n}" for n in range(99)).__next__)
    request = Request(id="r", ip=None, user_agent=None)

    def told(*findings: AuditFinding) -> None:
        payload = AuditChecked(entries=31, checkpoints=2, position=31, findings=findings)
        journal.record(payload, subject=CHECKS, workspace="default", actor=ROOT, request=request)

    return told


def test_the_last_check_is_reported_with_its_findings(
    audit_status: AuditStatus, tell: Callable[..., None]
) -> None:
    assert audit_status.last_check() is None
    tell(FINDING)
    found = audit_status.last_check()
    assert found is not None
    assert (found.intact, found.by, found.entries, found.findings) == (False, ROOT.label, 31, (FINDING,))
    tell()
    again = audit_status.last_check()
    assert again is not None
    assert (again.intact, again.findings) == (True, ())
    assert abs(again.at - now_ms()) < 60_000


def test_progress_is_measured_against_the_ledgers_head(audit_status: AuditStatus, ledger: Ledger) -> None:
    empty = audit_status.progress()
    assert (empty.position, empty.lag, empty.in_step) == (0, (0, 0, 0), True)
    grow(ledger, 3)
    catch_up(audit_status.log, ledger)
    grow(ledger, 2)
    found = audit_status.progress()
    assert (found.position, found.lag.head, found.lag.events, found.in_step) == (3, 5, 2, True)
    assert 0 <= found.lag.ms < 60_000


def test_a_ledger_that_went_backwards_is_detected_despite_a_passed_check(
    audit_status: AuditStatus, ledger: Ledger, store: Redis, tell: Callable[..., None]
) -> None:
    tell()
    catch_up(audit_status.log, ledger)
    store.flushall()
    grow(ledger, 1)
    assert not audit_status.progress().in_step


def test_the_last_signed_checkpoint_is_returned_unchanged(
    audit_status: AuditStatus, sqlite_log: AuditLog, ledger: Ledger, signer: Signer
) -> None:
    assert audit_status.last_checkpoint() is None
    grow(ledger, 3)
    catch_up(sqlite_log, ledger)
    note = notary_of(sqlite_log, ledger, signer, lambda: AT).sign_checkpoint()
    found = audit_status.last_checkpoint()
    assert found is not None
    assert note is not None
    assert (found.checkpoint.sequence, found.checkpoint.position, found.note) == (1, 3, note.decode())
    assert audit_status.public_key() == str(signer.public_key)


def test_an_unreadable_signing_key_yields_no_public_key(audit_status: AuditStatus, key_file: Path) -> None:
    key_file.write_text("no key")
    assert audit_status.public_key() is None


def test_a_failed_job_is_reported_with_its_reason_only(
    audit_status: AuditStatus, ledger: Ledger, store: Redis, valkey_url: str, tmp_path: Path, key_file: Path
) -> None:
    key_file.write_text("no key")
    grow(ledger, 1)
    with running(work, valkey_url, f"sqlite:///{tmp_path / 'audit.db'}", key_file):
        queue = Queue(QUEUE, connection=store, serializer=JSONSerializer)
        queue.enqueue("os.mkdir", str(tmp_path / "forged"))
        until(lambda: audit_status.failures.count(now_ms()) == 1, 20)
        job = queue.enqueue(FUNCTION)
        until(lambda: job.get_status() == JobStatus.FAILED, 20)
    found = audit_status.progress()
    assert (found.failed, found.waiting) == (2, 0)
    unsigned, forged = (failure.reason for failure in found.failures)
    assert "os.mkdir" in forged
    assert unsigned == f"{key_file} doesn't have an Ed25519 private key in PEM format."
    assert not any("Traceback" in failure.reason for failure in found.failures)
    assert audit_status.log.last().position == 1  # the job did its other work


@pytest.mark.parametrize("packed", [b"\xff", b"no base64", b64encode(b"no zlib"), b""])
def test_tampered_failure_reasons_are_skipped(store: Redis, packed: bytes) -> None:
    store.zadd(f"rq:failed:{QUEUE}", dict.fromkeys([b"\xff", b"gone", b"a", b"text"], 9e12))
    store.xadd("rq:results:a", {"exc_string": packed})
    store.set("rq:results:text", "no stream")
    failures = Failures(store)
    assert failures.count(now_ms()) == 4
    assert len(failures.newest(10)) == 1


def test_an_oversized_failure_reason_is_truncated(store: Redis) -> None:
    store.zadd(f"rq:failed:{QUEUE}", {"bomb": 9e12})
    store.xadd("rq:results:bomb", {"exc_string": b64encode(zlib.compress(b"x" * 10**7))})
    assert len(Failures(store).newest(1)[0].reason) == 2_000
