"""Creating a backup, including during concurrent writes."""

import os
import stat
from pathlib import Path

import pytest

from services.accounts.components import AccountComponents
from services.audit.components import AuditComponents
from services.backup.restore import restore_file
from services.backup.transfer import TransferError
from services.keys.components import KeyComponents
from shared.eventstore.ledger import Checkpoint
from tests.support.installations import (
    EVENTS,
    OPERATOR,
    PASSWORD,
    Earlier,
    Making,
    backed_up,
    findings,
    live,
    quietly,
    sign_checkpoint,
)
from tests.support.principals import REQUEST, new_key, principal
from tests.support.tampering import Tampered


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "backup.jsonl"


def test_a_backup_is_readable_only_by_its_owner_and_lacks_the_private_key(past: Earlier) -> None:
    assert stat.S_IMODE(past.backup.stat().st_mode) == 0o600
    written = past.backup.read_bytes()
    assert past.key_file.read_bytes().splitlines()[1] not in written
    assert PASSWORD.encode() not in written
    assert written.count(b"$argon2id$") == 2


def test_two_backups_of_the_same_data_differ_only_in_their_timestamp(making: Making, path: Path) -> None:
    components, again = live(making()), path.with_name("again")
    backed_up(components, path)
    backed_up(components, again)
    _, *one, _ = path.read_bytes().splitlines()
    _, *other, _ = again.read_bytes().splitlines()
    assert one == other
    assert len(one) == 2 + EVENTS + 1 + 2


def test_concurrent_changes_are_backed_up_completely_or_not_at_all(making: Making, path: Path) -> None:
    old = live(making())
    reached: list[int] = []

    def meanwhile(done: int, _all: int) -> None:
        if not reached:
            old.of(AccountComponents).accounts.reset_password(
                OPERATOR, "ann@example.org", "another long password", REQUEST
            )
            old.of(AccountComponents).accounts.add(OPERATOR, "eve@example.org", "owner", PASSWORD, REQUEST)
            sign_checkpoint(old)
        reached.append(done)

    taken = backed_up(old, path, meanwhile)
    assert (taken.header.events, taken.header.checkpoints, taken.passwords) == (EVENTS, 2, 2)
    assert reached[-1] == EVENTS
    new = making(old.of(AuditComponents).key_file)
    restore_file(new, path, quietly)
    assert len(new.of(AuditComponents).log.checkpoints()) == 2
    assert new.of(AccountComponents).sign_in("ann@example.org", "another long password", REQUEST)
    assert not new.of(AccountComponents).sign_in("eve@example.org", PASSWORD, REQUEST)
    new.of(AccountComponents).accounts.add(OPERATOR, "eve@example.org", "owner", PASSWORD, REQUEST)


def test_a_backup_has_every_event_that_its_checkpoints_cover(
    making: Making, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = live(making())
    checkpoints = old.of(AuditComponents).log.checkpoints

    def read_late() -> object:
        old.of(KeyComponents).keys.commands.create(principal(), new_key(name="late"), REQUEST)
        sign_checkpoint(old)
        return checkpoints()

    monkeypatch.setattr(old.of(AuditComponents).log, "checkpoints", read_late)
    taken = backed_up(old, path)
    assert (taken.header.events, taken.header.checkpoints) == (EVENTS + 1, 3)
    new = making(old.of(AuditComponents).key_file)
    restore_file(new, path, quietly)
    assert findings(new) == []


def test_a_checkpoint_beyond_the_end_of_the_ledger_is_skipped_and_reported(
    making: Making, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = live(making())
    monkeypatch.setattr(old.shared.ledger, "head", lambda: Checkpoint(EVENTS - 3, "older"))
    taken = backed_up(old, path)
    assert (taken.header.events, taken.header.checkpoints, taken.left_out) == (EVENTS - 3, 1, 1)


@pytest.mark.parametrize(
    ("damage", "readable"),
    [
        ("UPDATE audit_checkpoints SET note = 'no note' WHERE sequence = 2", 1),
        ("UPDATE audit_checkpoints SET note = x'ff' WHERE sequence = 2", 1),
        ("DELETE FROM audit_checkpoints WHERE sequence = 1", 0),
    ],
)
def test_checkpoints_from_the_first_damaged_one_on_are_skipped_and_reported(
    making: Making, path: Path, damage: str, readable: int
) -> None:
    old = live(making())
    way = Tampered(f"sqlite:///{old.shared.settings.data_dir / 'audit.db'}")
    way.disarm()
    way.run(damage)
    way.close()
    taken = backed_up(old, path)
    assert (taken.header.checkpoints, taken.left_out) == (readable, 1)
    new = making(old.of(AuditComponents).key_file)
    restore_file(new, path, quietly)
    assert len(new.of(AuditComponents).log.checkpoints()) == readable


def test_a_backup_is_not_written_to_a_terminal(making: Making) -> None:
    components = making()  # whose backup fits into what a terminal holds unread
    terminal, shown = os.openpty()
    try:
        with pytest.raises(TransferError, match=r"isn't printed to a terminal\. Name a file, or pipe it"):
            backed_up(components, Path(os.ttyname(shown)))
        os.write(shown, b"the end")
        assert os.read(terminal, 1000) == b"the end"
    finally:
        os.close(terminal)
        os.close(shown)


def test_a_failed_backup_keeps_the_previous_file(making: Making, path: Path) -> None:
    old = live(making())
    backed_up(old, path)
    whole = path.read_bytes()
    old.shared.store.xdel("{kl:0}:log", "0-2")
    with pytest.raises(TransferError, match="no event at position 2"):
        backed_up(old, path)
    assert path.read_bytes() == whole
    assert list(path.parent.iterdir()) == [path]
