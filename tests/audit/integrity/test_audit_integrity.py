"""Checking entries against ledger and chain: it finds tampering, without false positives."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from redis import Redis

from services.audit.ingest.job import catch_up
from services.audit.integrity.findings import Finding, Kind
from services.audit.integrity.signed_note import PublicKey
from services.audit.integrity.verify_log import Result, Trust, check, payload_of
from services.audit.log.entry import Entry, chain, entry_of, record_of
from services.audit.log.store import AuditLog
from shared.eventstore.envelope import Record
from shared.eventstore.events import AuditChecked, AuditFinding
from shared.eventstore.ledger import LOG, Ledger
from tests.support.histories import AT, created, grow, record
from tests.support.tampering import Tampered

KEY = Ed25519PrivateKey.generate().public_key()
TRUST = Trust(PublicKey("nobody", KEY), None)  # these logs have no checkpoints


def checked(log: AuditLog, ledger: Ledger) -> Result:
    return check(log, ledger, TRUST, lambda *_: None)


def kinds(result: Result) -> dict[Kind, tuple[int, int]]:
    """The count and the first position of each kind of finding."""
    return {kind: (result.counts[kind], finding.position) for kind, finding in result.first.items()}


@pytest.fixture
def full(log: AuditLog, ledger: Ledger) -> AuditLog:
    """A log of ten entries."""
    grow(ledger, 6, "key:1")
    grow(ledger, 4, "key:2")
    catch_up(log, ledger)
    return log


def test_an_intact_log_has_no_findings(full: AuditLog, ledger: Ledger) -> None:
    result = checked(full, ledger)
    assert result.ok
    assert (result.entries, result.log_position, result.ledger_position, result.behind) == (10, 10, 10, 0)
    assert result.findings == []


def test_an_empty_log_has_no_findings(log: AuditLog, ledger: Ledger) -> None:
    assert checked(log, ledger) == Result()


def test_a_log_behind_the_ledger_has_no_findings(full: AuditLog, ledger: Ledger) -> None:
    grow(ledger, 3, "key:3")
    result = checked(full, ledger)
    assert result.ok
    assert result.behind == 3


def test_unreadable_events_cause_no_findings(log: AuditLog, ledger: Ledger, store: Redis) -> None:
    for body in ("no JSON", '{"id":"a","subject":"key:1","type":"KeyBlessed","data":{}}', "{}"):
        store.xadd(LOG, {"at": AT, "event": body}, id="0-*")
    catch_up(log, ledger)
    result = checked(log, ledger)
    assert result.ok
    assert result.entries == 3


def test_a_log_that_grows_during_the_check_has_no_findings(sqlite_log: AuditLog, ledger: Ledger) -> None:
    grow(ledger, 2_500)
    catch_up(sqlite_log, ledger)

    def grow_on(*_: int) -> None:
        grow(ledger, 10)
        catch_up(sqlite_log, ledger)

    result = check(sqlite_log, ledger, TRUST, grow_on)
    assert result.ok
    assert result.entries == 2_500


def test_progress_is_reported_to_the_end(sqlite_log: AuditLog, ledger: Ledger) -> None:
    grow(ledger, 2_500)
    catch_up(sqlite_log, ledger)
    told: list[tuple[int, int]] = []
    check(sqlite_log, ledger, TRUST, lambda done, total: told.append((done, total)))
    assert told == [(1000, 2500), (2000, 2500), (2500, 2500)]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("at", "at + 1"),
        ("entry_hash", "previous_hash"),
        ("previous_hash", "entry_hash"),
    ],
)
def test_a_changed_field_is_found(
    full: AuditLog, ledger: Ledger, tampered: Tampered, column: str, value: str
) -> None:
    tampered.disarm()
    tampered.change(4, f"{column} = {value}")
    result = checked(full, ledger)
    assert kinds(result) == {Kind.CHANGED: (1, 4)}
    assert column in result.findings[0].detail


def own_record(entry: Entry) -> Record:
    found = record_of(entry.record)
    assert found
    return found


def test_a_forged_event_with_a_matching_hash_is_found(
    full: AuditLog, ledger: Ledger, tampered: Tampered
) -> None:
    tampered.disarm()
    before = list(full.walk(10))[2]
    tampered.overwrite(entry_of(record(4, created("forged")), before.entry_hash))
    result = checked(full, ledger)
    assert result.findings == [Finding(Kind.CHANGED, 4, "the ledger has another event here")]
    assert result.counts == {Kind.CHANGED: 1}


def test_a_chain_recomputed_after_a_forged_event_is_found(
    full: AuditLog, ledger: Ledger, tampered: Tampered
) -> None:
    tampered.disarm()
    entries = list(full.walk(10))
    events = [record(4, created("forged")), *map(own_record, entries[4:])]
    for entry in chain(events, entries[2].entry_hash):
        tampered.overwrite(entry)
    assert kinds(checked(full, ledger)) == {Kind.CHANGED: (1, 4)}


def test_deleted_entries_are_found(full: AuditLog, ledger: Ledger, tampered: Tampered) -> None:
    tampered.disarm()
    tampered.run("DELETE FROM audit_entries WHERE position IN (4, 5, 8)")
    assert kinds(checked(full, ledger)) == {Kind.MISSING: (3, 4)}


def test_a_deleted_beginning_is_found(full: AuditLog, ledger: Ledger, tampered: Tampered) -> None:
    tampered.disarm()
    tampered.run("DELETE FROM audit_entries WHERE position < 3")
    assert kinds(checked(full, ledger)) == {Kind.MISSING: (2, 1)}


def test_swapped_entries_are_found(full: AuditLog, ledger: Ledger, tampered: Tampered) -> None:
    tampered.disarm()
    tampered.run(
        "UPDATE audit_entries SET position = 99 WHERE position = 4",
        "UPDATE audit_entries SET position = 4 WHERE position = 5",
        "UPDATE audit_entries SET position = 5 WHERE position = 99",
    )
    result = checked(full, ledger)
    assert kinds(result) == {Kind.OUT_OF_ORDER: (2, 4)}
    assert result.findings[0].detail == "it is the entry of position 5"


@pytest.mark.parametrize("position", [-3, 0, 11])
def test_an_inserted_entry_is_found(
    full: AuditLog, ledger: Ledger, tampered: Tampered, position: int
) -> None:
    tampered.disarm()
    tampered.copy(7, position)
    assert kinds(checked(full, ledger)) == {Kind.EXTRA: (1, position)}


def test_an_entry_whose_event_is_missing_from_the_ledger_is_found(
    full: AuditLog, ledger: Ledger, store: Redis
) -> None:
    store.xdel(LOG, "0-4")
    assert kinds(checked(full, ledger)) == {Kind.EXTRA: (1, 4)}


def test_a_position_missing_from_both_log_and_ledger_is_found(
    full: AuditLog, ledger: Ledger, tampered: Tampered, store: Redis
) -> None:
    tampered.disarm()
    entries = list(full.walk(10))
    tampered.run("DELETE FROM audit_entries WHERE position IN (4, 5)")
    store.xdel(LOG, "0-4", "0-5")
    for entry in chain(map(own_record, entries[5:]), entries[2].entry_hash):
        tampered.overwrite(entry)
    assert kinds(checked(full, ledger)) == {Kind.MISSING: (2, 4)}


def test_a_ledger_shorter_than_the_log_is_found(full: AuditLog, ledger: Ledger, store: Redis) -> None:
    store.xdel(LOG, "0-9", "0-10")
    result = checked(full, ledger)
    assert kinds(result) == {Kind.LEDGER_SHORTER: (2, 9)}
    assert result.behind == 0


def test_each_kind_of_finding_is_reported_separately(
    full: AuditLog, ledger: Ledger, tampered: Tampered, store: Redis
) -> None:
    tampered.disarm()
    tampered.change(4, "at = at + 1")
    tampered.run("DELETE FROM audit_entries WHERE position = 6")
    tampered.copy(2, 0)
    store.xdel(LOG, "0-10")
    assert kinds(checked(full, ledger)) == {
        Kind.EXTRA: (1, 0),
        Kind.CHANGED: (1, 4),
        Kind.MISSING: (1, 6),
        Kind.LEDGER_SHORTER: (1, 10),
    }


@pytest.mark.parametrize(
    "value",
    [
        "record = CAST(record AS TEXT)",
        "record = ''",
        "record = 7",
        "entry_hash = 'text'",
        "previous_hash = 7",
        "at = 'text'",
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_values_of_the_wrong_type_are_found(
    full: AuditLog, ledger: Ledger, tampered: Tampered, value: str
) -> None:
    # SQLite stores values of any type in any column.
    tampered.disarm()
    tampered.change(4, value)
    assert kinds(checked(full, ledger)) == {Kind.CHANGED: (1, 4)}


def test_findings_are_converted_to_an_event_payload(
    full: AuditLog, ledger: Ledger, tampered: Tampered
) -> None:
    tampered.disarm()
    tampered.run("DELETE FROM audit_entries WHERE position IN (4, 5)")
    finding = AuditFinding(
        kind="missing",
        count=2,
        position=4,
        detail="the ledger has an event here, but the log has no entry",
    )
    payload = payload_of(checked(full, ledger))
    assert payload == AuditChecked(entries=8, checkpoints=0, position=10, findings=(finding,))
