"""One contract, for every kind of store."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis

from shared.events import Actor, KeyToggled, NewEvent, Request, enveloped
from shared.ledger import (
    BEGINNING,
    LOG,
    Appended,
    Checkpoint,
    Idempotency,
    IdempotencyConflictError,
    Ledger,
    VersionConflictError,
    checkpoint_at,
)


@pytest.fixture
def ledger(any_store: Redis) -> Ledger:
    return Ledger(any_store)


def toggles(subject: str, after_version: int = 0, count: int = 1) -> list[NewEvent]:
    return enveloped(
        [KeyToggled(enabled=True, reason=str(n)) for n in range(count)],
        subject=subject,
        after_version=after_version,
        workspace="default",
        actor=Actor(kind="operator", id="o", label="op"),
        request=Request(id="r", ip=None, user_agent=None),
        new_id=iter(f"{subject}/{after_version + n + 1}" for n in range(count)).__next__,
    )


def test_positions_are_whole_numbers_without_a_gap(ledger: Ledger) -> None:
    first = ledger.append("key:a", toggles("key:a", count=3), 0)
    second = ledger.append("key:b", toggles("key:b"), 0)
    assert (first.positions, second.positions) == ((1, 2, 3), (4,))
    assert [record.position for record in ledger.read(0, 100)] == [1, 2, 3, 4]


def test_a_history_is_the_subjects_part_of_the_log(ledger: Ledger) -> None:
    for version in range(3):
        ledger.append("key:a", toggles("key:a", version), version)
        ledger.append("key:b", toggles("key:b", version), version)
    assert [(e.position, e.version) for e in ledger.history("key:b")] == [(2, 1), (4, 2), (6, 3)]
    assert ledger.history("key:none") == []


def test_a_long_history_is_whole(ledger: Ledger) -> None:
    ledger.append("key:a", toggles("key:a", count=1_200), 0)
    assert [event.version for event in ledger.history("key:a")] == list(range(1, 1_201))


@pytest.mark.parametrize("expected", [0, 2])
def test_a_stale_or_early_version_is_a_conflict_and_writes_nothing(ledger: Ledger, expected: int) -> None:
    ledger.append("key:a", toggles("key:a"), 0)
    with pytest.raises(VersionConflictError):
        ledger.append("key:a", toggles("key:a", 5), expected, Idempotency("n", "f"), credential="secret")
    assert ledger.head().position == 1
    assert ledger.recall(Idempotency("n", "f")) is None
    assert ledger.credential("key:a") is None


def test_the_same_request_again_gives_the_first_outcome_whatever_came_after(ledger: Ledger) -> None:
    request = Idempotency("caller", "asked")
    first = ledger.append("key:a", toggles("key:a"), 0, request)
    ledger.append("key:a", toggles("key:a", 1), 1)
    again = ledger.append("key:z", toggles("key:z"), 0, request)
    assert again == Appended("key:a", first.positions, repeated=True) == ledger.recall(request)
    assert ledger.head().position == 2


def test_the_same_idempotency_key_for_another_request_is_a_conflict(ledger: Ledger) -> None:
    ledger.append("key:a", toggles("key:a"), 0, Idempotency("caller", "asked"))
    with pytest.raises(IdempotencyConflictError):
        ledger.append("key:b", toggles("key:b"), 0, Idempotency("caller", "something else"))
    with pytest.raises(IdempotencyConflictError):
        ledger.recall(Idempotency("caller", "something else"))
    assert ledger.head().position == 1


def test_an_idempotency_record_lasts_a_day(ledger: Ledger, any_store: Redis) -> None:
    ledger.append("key:a", toggles("key:a"), 0, Idempotency("caller", "asked"))
    assert 86_000 < any_store.ttl("{kl:0}:idempotency:caller") <= 86_400


def test_a_credential_is_kept_with_its_event_and_apart_from_the_log(ledger: Ledger) -> None:
    ledger.append("account:a", toggles("account:a"), 0, credential="hash")
    assert ledger.credential("account:a") == "hash"
    assert all(b"hash" not in record.body for record in ledger.read(0, 10))


def test_every_key_of_the_store_lies_in_one_slot(ledger: Ledger, any_store: Redis) -> None:
    ledger.append("account:a", toggles("account:a"), 0, Idempotency("n", "f"), credential="hash")
    assert all(name.startswith(b"{kl:0}:") for name in any_store.scan_iter())


def test_time_never_runs_backwards_in_the_log(ledger: Ledger, any_store: Redis) -> None:
    far = 99_999_999_999_999
    any_store.xadd(LOG, {"at": far, "event": b"{}"}, id="0-*")
    ledger.append("key:a", toggles("key:a"), 0)
    assert [record.at for record in ledger.read(0, 10)] == [far, far]


def test_a_tail_gives_what_is_there_and_waits_for_what_is_not(ledger: Ledger) -> None:
    ledger.append("key:a", toggles("key:a", count=3), 0)
    assert [record.position for record in ledger.tail(1, 10, 10)] == [2, 3]
    assert ledger.tail(3, 10, 10) == []


def test_a_checkpoint_holds_while_its_event_is_where_it_was(ledger: Ledger) -> None:
    assert ledger.head() == BEGINNING
    assert ledger.holds(BEGINNING)
    ledger.append("key:a", toggles("key:a", count=2), 0)
    assert checkpoint_at(ledger.read(0, 10)) == ledger.head() == Checkpoint(2, "key:a/2")
    assert ledger.holds(Checkpoint(1, "key:a/1"))


@pytest.mark.parametrize("lost", [Checkpoint(3, "key:a/3"), Checkpoint(2, "another")])
def test_a_ledger_that_went_backwards_is_told_from_an_idle_one(ledger: Ledger, lost: Checkpoint) -> None:
    ledger.append("key:a", toggles("key:a", count=2), 0)
    assert not ledger.holds(lost)


def test_appending_goes_on_after_the_store_forgot_its_scripts(ledger: Ledger, any_store: Redis) -> None:
    ledger.append("key:a", toggles("key:a"), 0)
    any_store.script_flush()
    assert ledger.append("key:a", toggles("key:a", 1), 1).positions == (2,)
    any_store.script_flush()
    assert len(ledger.history("key:a")) == 2


def test_of_many_at_once_each_version_is_written_once(ledger: Ledger) -> None:
    def compete(_: int) -> int:
        won = 0
        while (version := len(ledger.history("key:a"))) < 40:
            try:
                ledger.append("key:a", toggles("key:a", version), version)
                won += 1
            except VersionConflictError:
                pass
        return won

    with ThreadPoolExecutor(8) as pool:
        wins = sum(pool.map(compete, range(8)))
    versions = [event.version for event in ledger.history("key:a")]
    assert versions == list(range(1, len(versions) + 1))
    assert len(versions) == wins == ledger.head().position
