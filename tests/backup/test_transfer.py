"""Export and import of a ledger on every kind of store."""

import stat
from pathlib import Path

import pytest
from redis import Redis

from services.backup.transfer import TransferError, export_file, import_file
from shared.clock import LAST_TIME
from shared.eventstore.envelope import Record
from shared.eventstore.ledger import LOG, Ledger, UnexpectedHeadError
from tests.shared.eventstore.test_export import DAMAGE, FOUR, file_of, toggled
from tests.shared.eventstore.test_ledger import toggles

NO_JSON = Record(2, 7, b"\xffno JSON")


def silently(_done: int, _all: int) -> None:
    pass


def content(store: Redis) -> dict[bytes, object]:
    """Returns the ledger's content in a store: the log and the indices."""
    indices = {name: store.lrange(name, 0, -1) for name in store.scan_iter("{kl:0}:subject:*")}
    return {LOG.encode(): store.xrange(LOG), **indices}


def written(path: Path, file: list[bytes]) -> Path:
    path.write_bytes(b"".join(file))
    return path


@pytest.fixture
def ledger(any_store: Redis) -> Ledger:
    return Ledger(any_store)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def test_export_and_import_preserve_times_positions_and_indices(
    ledger: Ledger, any_store: Redis, path: Path
) -> None:
    ledger.append("key:a", toggles("key:a", count=600), 0)
    ledger.append("account:b", toggles("account:b"), 0, credential="a password's hash")
    ledger.append("key:a", toggles("key:a", 600), 600)
    before = content(any_store)
    assert export_file(ledger, path, silently) == 602
    assert b"a password's hash" not in path.read_bytes()
    any_store.flushall()
    assert import_file(ledger, path, silently) == 602
    assert content(any_store) == before
    assert [event.version for event in ledger.history("key:a")] == list(range(1, 602))
    assert ledger.append("key:a", toggles("key:a", 601), 601).positions == (603,)


def test_unreadable_events_are_imported_and_exported_unchanged(
    ledger: Ledger, any_store: Redis, path: Path
) -> None:
    strange = toggled(1, type="KeyTeleported", data={"to": "Mars"}, colour="blue")
    import_file(ledger, written(path, file_of(strange, NO_JSON)), silently)
    assert ledger.read(0, 10) == [strange, NO_JSON]
    assert any_store.lrange("{kl:0}:subject:key:00abcdefghij", 0, -1) == [b"1"]
    again = path.with_name("again")
    export_file(ledger, again, silently)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("damage", DAMAGE)
def test_importing_a_damaged_file_writes_nothing(fake_store: Redis, path: Path, damage: str) -> None:
    written(path, DAMAGE[damage](FOUR))
    with pytest.raises(TransferError, match=r"isn't a complete export\. .* Nothing was written\."):
        import_file(Ledger(fake_store), path, silently)
    assert fake_store.dbsize() == 0


@pytest.mark.parametrize("at", [LAST_TIME + 1, 10**16])
def test_importing_a_time_after_the_year_9999_writes_nothing(fake_store: Redis, path: Path, at: int) -> None:
    late = toggled(2)._replace(at=at)
    with pytest.raises(TransferError, match=r"position 2 .* after the year 9999\. Nothing was written\."):
        import_file(Ledger(fake_store), written(path, file_of(toggled(1), late)), silently)
    assert fake_store.dbsize() == 0
    late = late._replace(at=LAST_TIME)
    assert import_file(Ledger(fake_store), written(path, file_of(toggled(1), late)), silently) == 2


def test_a_ledger_with_a_time_after_the_year_9999_can_be_exported(fake_store: Redis, path: Path) -> None:
    fake_store.xadd(LOG, {"at": 10**16, "event": toggled(1).body}, id="0-*")
    assert export_file(Ledger(fake_store), path, silently) == 1


def test_a_non_empty_ledger_is_not_overwritten(ledger: Ledger, any_store: Redis, path: Path) -> None:
    written(path, FOUR)
    ledger.append("key:a", toggles("key:a"), 0)
    before = content(any_store)
    with pytest.raises(TransferError, match="isn't empty: it has 1 events"):
        import_file(ledger, path, silently)
    assert content(any_store) == before


def test_importing_the_same_file_twice_is_rejected(ledger: Ledger, any_store: Redis, path: Path) -> None:
    import_file(ledger, written(path, FOUR), silently)
    before = content(any_store)
    with pytest.raises(TransferError, match="already has all 4 events of the file"):
        import_file(ledger, path, silently)
    assert content(any_store) == before


def test_a_ledger_with_a_deleted_log_is_not_treated_as_empty(
    ledger: Ledger, any_store: Redis, path: Path
) -> None:
    ledger.append("key:a", toggles("key:a"), 0)
    any_store.delete(LOG)
    with pytest.raises(TransferError, match="isn't empty"):
        import_file(ledger, written(path, FOUR), silently)
    assert not any_store.exists(LOG)


class Interrupted(Exception):  # noqa: N818  # it stands for a signal
    pass


def interrupted_import(ledger: Ledger, path: Path) -> None:
    def interrupt(done: int, _all: int) -> None:
        if ledger.head().position == done:
            raise Interrupted

    with pytest.raises(Interrupted):
        import_file(ledger, path, interrupt)


def test_an_interrupted_import_can_be_resumed(ledger: Ledger, any_store: Redis, path: Path) -> None:
    events = [toggled(position) for position in range(1, 1_202)]
    interrupted_import(ledger, written(path, file_of(*events)))
    assert ledger.head().position == 500
    assert import_file(ledger, path, silently) == 1_201
    assert ledger.read(0, 2_000) == events
    assert any_store.llen("{kl:0}:subject:key:00abcdefghij") == 1_201


def test_an_interrupted_import_cannot_be_resumed_with_another_file(ledger: Ledger, path: Path) -> None:
    interrupted_import(ledger, written(path, file_of(*(toggled(n) for n in range(1, 701)))))
    other = [toggled(n, workspace="other" if n == 3 else "default") for n in range(1, 701)]
    with pytest.raises(TransferError, match="isn't empty: it has 500 events"):
        import_file(ledger, written(path, file_of(*other)), silently)
    assert ledger.head().position == 500


def test_a_concurrent_write_aborts_the_import(ledger: Ledger, path: Path) -> None:
    def meanwhile(done: int, _all: int) -> None:
        if ledger.head().position == done == 500:
            ledger.append("key:b", toggles("key:b"), 0)

    with pytest.raises(TransferError, match="Another process wrote to the ledger"):
        import_file(ledger, written(path, file_of(*(toggled(n) for n in range(1, 1_001)))), meanwhile)
    assert ledger.head().position == 501


def test_filling_from_a_position_other_than_the_head_is_rejected(ledger: Ledger, any_store: Redis) -> None:
    ledger.fill(0, [toggled(1)])
    before = content(any_store)
    for after in (0, 2):
        with pytest.raises(UnexpectedHeadError):
            ledger.fill(after, [toggled(after + 1)])
    assert content(any_store) == before


def test_an_export_excludes_events_written_after_it_started(ledger: Ledger, path: Path) -> None:
    ledger.append("key:a", toggles("key:a", count=3), 0)
    late: list[int] = []

    def meanwhile(_done: int, _all: int) -> None:
        late.append(ledger.append("key:b", toggles("key:b", len(late)), len(late)).position)

    assert export_file(ledger, path, meanwhile) == 3
    assert late == [4]
    assert path.read_bytes().count(b"\n") == 4


def test_a_failed_export_keeps_the_previous_file(ledger: Ledger, any_store: Redis, path: Path) -> None:
    written(path, FOUR)
    ledger.append("key:a", toggles("key:a", count=3), 0)
    any_store.xdel(LOG, "0-2")
    with pytest.raises(TransferError, match="no event at position 2"):
        export_file(ledger, path, silently)
    assert path.read_bytes() == b"".join(FOUR)
    assert list(path.parent.iterdir()) == [path]


def test_an_export_is_readable_only_by_its_owner(ledger: Ledger, path: Path) -> None:
    export_file(ledger, path, silently)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
