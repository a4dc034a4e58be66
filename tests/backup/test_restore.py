"""Restoring a backup: the restored data, rejected backups and interrupted restores."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from services.accounts.components import AccountComponents
from services.accounts.read_model import account_list as directory
from services.audit.components import AuditComponents
from services.backup.format import Reader, lines
from services.backup.restore import restore_file
from services.backup.transfer import Progress, TransferError
from services.keys.components import KeyComponents
from services.keys.read_model.rebuild.replay import check as check_views
from shared.service.components import Container
from shared.store.connections import is_read_from
from tests.support.histories import grow
from tests.support.installations import (
    PASSWORD,
    Earlier,
    Making,
    Seen,
    audit,
    backed_up,
    close,
    findings,
    live,
    quietly,
    seen,
    sign_checkpoint,
    with_fast_passwords,
)
from tests.support.principals import REQUEST, new_key, principal
from tests.support.processes import until
from tests.support.tampering import Tampered

NOTHING = Seen([], {}, {}, [], [], None, set(), [])


class Interrupted(Exception):  # noqa: N818  # it stands for a signal
    pass


def restored(components: Container, path: Path, *, with_checkpoints: bool = True) -> Seen:
    restore_file(components, path, quietly, with_checkpoints=with_checkpoints)
    return seen(components)


def refused(components: Container, path: Path, message: str, *, with_checkpoints: bool = True) -> None:
    """Asserts that a restore fails with a one-line error and changes nothing."""
    before = seen(components)
    with pytest.raises(TransferError, match=message) as refusal:
        restored(components, path, with_checkpoints=with_checkpoints)
    assert "\n" not in str(refusal.value)
    assert seen(components) == before


def interrupted(components: Container, path: Path, phase: str, steps: int) -> None:
    """Interrupts a restore after a number of steps of a phase; with 0, at the start of the phase."""

    @contextmanager
    def bar(what: str) -> Iterator[Progress]:
        done = 0

        def step(_done: int, _all: int) -> None:
            nonlocal done
            done += 1
            if (what, done) == (phase, steps):
                raise Interrupted

        if (what, 0) == (phase, steps):
            raise Interrupted
        yield step

    with pytest.raises(Interrupted):
        restore_file(components, path, bar)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str | None:
    """An empty audit database of each kind. None is the SQLite file in the data directory."""
    if request.param == "sqlite":
        return None
    url = f"postgresql://keyledger@/postgres?host={request.getfixturevalue('postgresql_server')}"
    server = Tampered(url)
    server.run("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    server.close()
    return url


def test_a_restore_recovers_everything_and_the_service_works_again(
    past: Earlier, making: Making, database: str | None
) -> None:
    new = making(past.key_file, database)
    found = restore_file(new, past.backup, quietly)
    assert (found.header, len(found.credentials)) == (past.taken.header, 2)
    assert new.shared.store.hlen(directory._ROWS) == 2  # nobody has asked for the list of people yet
    assert seen(new) == past.before
    assert len(past.before.checkpoints) == 2
    assert check_views(new.shared.ledger, new.of(KeyComponents).views).equal
    assert findings(new) == []
    assert new.of(AccountComponents).sign_in("ann@example.org", PASSWORD, REQUEST)
    assert not new.of(AccountComponents).sign_in("bob@example.org", PASSWORD + "r", REQUEST)
    sign_checkpoint(new)
    assert [each.sequence for each in new.of(AuditComponents).log.checkpoints()] == [1, 2, 3]
    assert findings(new) == []


def test_restoring_an_empty_backup_creates_nothing(making: Making, tmp_path: Path) -> None:
    backed_up(making(), tmp_path / "backup")
    new = making()
    assert restored(new, tmp_path / "backup") == NOTHING
    assert not new.of(AuditComponents).key_file.exists()


@pytest.mark.parametrize(
    ("phase", "steps"),
    [("events", 0), ("events", 1), ("audit log", 0), ("audit log", 1), ("views", 0), ("views", 1)],
)
def test_an_interrupted_restore_can_be_run_again(
    past: Earlier, making: Making, phase: str, steps: int
) -> None:
    new = making(past.key_file)
    interrupted(new, past.backup, phase, steps)
    assert NOTHING != seen(new) != past.before
    assert restored(new, past.backup) == past.before
    assert restored(new, past.backup) == past.before


def test_an_incomplete_restore_is_detected_by_the_audit_check(past: Earlier, making: Making) -> None:
    new = making(past.key_file)
    interrupted(new, past.backup, "events", 1)
    sign_checkpoint(new)  # as the processes do, if somebody starts them then
    assert [finding.kind.value for finding in findings(new)] == ["cut off"]
    restored(new, past.backup)
    assert findings(new) == []


def test_a_damaged_backup_writes_nothing(past: Earlier, making: Making, tmp_path: Path) -> None:
    new, whole = making(past.key_file), past.backup.read_bytes()
    file = whole.splitlines(keepends=True)
    swapped = [*file[:4], file[5], file[4], *file[6:]]
    path = tmp_path / "damaged"
    for damaged in (whole[:-1], whole[:-90], whole + b"\n", whole * 2, *map(b"".join, (file[:-1], swapped))):
        path.write_bytes(damaged)
        refused(new, path, "isn't a complete backup. .* Nothing was written.")


def test_a_file_that_is_not_a_backup_is_rejected(past: Earlier, making: Making, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(past.backup.read_bytes().partition(b"\n")[2])
    refused(making(), tmp_path / "other", "other isn't a Keyledger backup: .* Nothing was written.")


def test_a_modified_backup_with_a_new_checksum_fails_checkpoint_verification(
    past: Earlier, making: Making, tmp_path: Path
) -> None:
    reader = Reader(past.backup.read_bytes().splitlines(keepends=True))
    notes = reader.notes()
    on = [each._replace(body=each.body.replace(b":false", b":true")) for each in reader.records()]
    changed = lines(reader.header, notes, on, reader.credentials())
    (tmp_path / "changed").write_bytes(b"".join(changed))
    refused(making(past.key_file), tmp_path / "changed", "checkpoint 1 was signed for other events than")


def test_checkpoints_out_of_sequence_are_rejected(past: Earlier, making: Making, tmp_path: Path) -> None:
    reader = Reader(past.backup.read_bytes().splitlines(keepends=True))
    notes, records = [reader.notes()[0]] * 2, [*reader.records()]
    changed = lines(reader.header, notes, records, reader.credentials())
    (tmp_path / "changed").write_bytes(b"".join(changed))
    refused(
        making(past.key_file), tmp_path / "changed", "isn't what was signed: checkpoint 2: it is checkpoint 1"
    )


def test_restoring_without_the_audit_key_is_rejected_and_creates_no_key(
    past: Earlier, making: Making
) -> None:
    new = making()
    refused(new, past.backup, r"audit_key.pem is missing, .*: restore it first, or restore --without-")
    assert not new.of(AuditComponents).key_file.exists()


def test_restoring_with_another_audit_key_is_rejected(past: Earlier, making: Making) -> None:
    new = making()
    assert new.of(AuditComponents).signer.public_key
    refused(new, past.backup, r"audit_key.pem isn't the key that signed .*: restore that key first")


def test_restoring_without_checkpoints_starts_a_new_checkpoint_chain(past: Earlier, making: Making) -> None:
    new, expected = making(), past.before._replace(checkpoints=[], anchor=None)
    assert restored(new, past.backup, with_checkpoints=False) == expected
    assert restored(new, past.backup, with_checkpoints=False) == expected
    sign_checkpoint(new)
    assert [each.sequence for each in new.of(AuditComponents).log.checkpoints()] == [1]
    assert findings(new) == []


def test_a_checkpoint_newer_than_the_backup_is_not_overwritten(making: Making, tmp_path: Path) -> None:
    old = live(making())
    backed_up(old, tmp_path / "backup")
    later = sign_checkpoint(old)
    new = making(old.of(AuditComponents).key_file)
    new.of(AuditComponents).signer.keep(later)
    for with_checkpoints in (True, False):
        message = "has a checkpoint that wouldn't be restored"
        refused(new, tmp_path / "backup", message, with_checkpoints=with_checkpoints)
    new.of(AuditComponents).signer.anchor_file.unlink()
    restored(new, tmp_path / "backup")
    assert findings(new) == []


def test_a_non_empty_ledger_or_audit_log_is_not_overwritten(past: Earlier, making: Making) -> None:
    new = making(past.key_file)
    grow(new.shared.ledger, 1)
    refused(new, past.backup, "The ledger isn't empty")
    audit(new)
    new.shared.store.flushall()
    refused(new, past.backup, "The audit log isn't empty")


def test_checkpoints_of_another_audit_log_are_not_overwritten(past: Earlier, making: Making) -> None:
    new = making(past.key_file)
    new.of(AuditComponents).log.restore_checkpoints([b"another\n"])
    refused(new, past.backup, "The audit log isn't empty")


def test_an_audit_log_that_survived_the_store_is_reused(making: Making, tmp_path: Path) -> None:
    old = live(making())
    backed_up(old, tmp_path / "backup")
    before = seen(old)
    old.shared.store.flushall()
    assert restored(old, tmp_path / "backup") == before


def test_an_audit_log_ahead_of_the_backup_is_not_overwritten(making: Making, tmp_path: Path) -> None:
    old = live(making())
    backed_up(old, tmp_path / "backup")
    old.of(KeyComponents).keys.commands.create(principal(), new_key(name="lost"), REQUEST)
    audit(old)
    old.shared.store.flushall()
    refused(old, tmp_path / "backup", "The audit log isn't empty, .* Keep the old one as evidence")


def test_restoring_into_a_store_in_use_is_rejected(past: Earlier, making: Making) -> None:
    new = making(past.key_file)
    reader = Thread(target=new.shared.tailed_ledger.tail, args=(0, 1, 2_000))
    reader.start()
    until(lambda: is_read_from(new.shared.store), what="the reader's wait")
    refused(new, past.backup, "Keyledger is running on this store: stop it")
    reader.join()
    restored(new, past.backup)


def test_a_restore_that_fails_for_lack_of_replicas_can_be_run_again(past: Earlier, making: Making) -> None:
    new = making(past.key_file, ack_replicas=1)
    with pytest.raises(TransferError, match=r"0 of 1 replicas have it in time\. Check the replicas"):
        restored(new, past.backup)
    again = with_fast_passwords(replace(new.shared.settings, ack_replicas=0), new.shared.store_url)
    assert restored(again, past.backup) == past.before
    close(again)


def test_a_concurrent_write_aborts_the_restore(past: Earlier, making: Making) -> None:
    new = making(past.key_file)

    @contextmanager
    def watching(what: str) -> Iterator[Progress]:
        yield (
            lambda done, _all: (
                grow(new.shared.ledger, 1, "key:x") if (what, done) == ("events", 500) else None
            )
        )

    with pytest.raises(TransferError, match="Another process wrote to the ledger"):
        restore_file(new, past.backup, watching)
