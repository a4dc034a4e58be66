"""The ledger's contract, in memory and on every kind of store; and tests for stores only."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import cast

import fakeredis
import msgspec
import pytest
from redis import Redis, ResponseError

from shared.clock import LAST_TIME
from shared.eventstore.codec import encode
from shared.eventstore.envelope import Actor, NewEvent, Record, Request, enveloped
from shared.eventstore.events import KeyToggled
from shared.eventstore.ledger import (
    BEGINNING,
    LOG,
    Appended,
    Checkpoint,
    Guard,
    Ledger,
    UnexpectedHeadError,
    VersionConflictError,
    checkpoint_at,
)
from shared.store.connections import connect
from shared.store.idempotency import Idempotency, IdempotencyConflictError
from tests.support.memory_ledger import MemoryLedger

SECRET = "a secret of 32 characters at least"


@pytest.fixture(params=["memory", "fakeredis", "valkey", "redis"])
def ledger(request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """An empty ledger of each kind."""
    if request.param == "memory":
        yield MemoryLedger()
    elif request.param == "fakeredis":
        yield Ledger(fakeredis.FakeRedis(), secret_key=SECRET)
    else:
        with connect(request.getfixturevalue(f"{request.param}_url")) as client:
            client.flushall()
            yield Ledger(client, secret_key=SECRET)


@pytest.fixture
def stored_ledger(any_store: Redis) -> Ledger:
    """An empty ledger on each kind of store, for tests that access the store itself."""
    return Ledger(any_store, secret_key=SECRET)


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


def test_positions_are_consecutive_integers(ledger: Ledger) -> None:
    first = ledger.append("key:a", toggles("key:a", count=3), 0)
    second = ledger.append("key:b", toggles("key:b"), 0)
    assert (first.positions, second.positions) == ((1, 2, 3), (4,))
    assert [record.position for record in ledger.read(0, 100)] == [1, 2, 3, 4]


def test_a_history_contains_the_events_of_its_subject_in_order(ledger: Ledger) -> None:
    for version in range(3):
        ledger.append("key:a", toggles("key:a", version), version)
        ledger.append("key:b", toggles("key:b", version), version)
    assert [(e.position, e.version) for e in ledger.history("key:b")] == [(2, 1), (4, 2), (6, 3)]
    assert ledger.history("key:none") == []
    assert [ledger.version(subject) for subject in ("key:b", "key:none")] == [3, 0]
    assert ledger.last("key:b") == ledger.history("key:b")[-1]
    assert ledger.last("key:none") is None


def test_a_long_history_is_complete(ledger: Ledger) -> None:
    ledger.append("key:a", toggles("key:a", count=1_200), 0)
    assert [event.version for event in ledger.history("key:a")] == list(range(1, 1_201))


@pytest.mark.parametrize("expected", [0, 2])
@pytest.mark.parametrize("count", [1, 3])
def test_an_append_at_a_wrong_version_is_a_conflict_and_writes_nothing(
    ledger: Ledger, expected: int, count: int
) -> None:
    ledger.append("key:a", toggles("key:a"), 0)
    with pytest.raises(VersionConflictError) as conflict:
        ledger.append("key:a", toggles("key:a", 5, count), expected, Idempotency("n", "f"), "secret")
    assert conflict.value.actual == 1
    assert ledger.head().position == len(ledger.history("key:a")) == 1
    assert ledger.recall(Idempotency("n", "f")) is None
    assert ledger.credential("key:a") is None


@pytest.mark.parametrize("expected", [0, 2])
def test_a_guard_at_a_wrong_version_is_a_conflict_and_writes_nothing(ledger: Ledger, expected: int) -> None:
    ledger.append("account:owner", toggles("account:owner"), 0)
    with pytest.raises(VersionConflictError) as conflict:
        ledger.append(
            "account:a",
            toggles("account:a", count=2),
            0,
            Idempotency("n", "f"),
            "secret",
            Guard("account:owner", expected),
        )
    assert (conflict.value.subject, conflict.value.actual) == ("account:owner", 1)
    assert ledger.head().position == 1
    assert ledger.history("account:a") == []
    assert ledger.recall(Idempotency("n", "f")) is None
    assert ledger.credential("account:a") is None


def test_a_guard_at_the_right_version_lets_the_append_through(ledger: Ledger) -> None:
    ledger.append("account:owner", toggles("account:owner"), 0)
    guard = Guard("account:owner", 1)
    appended = ledger.append("account:a", toggles("account:a", count=2), 0, None, "secret", guard)
    assert appended == Appended("account:a", (2, 3))
    assert [event.version for event in ledger.history("account:a")] == [1, 2]
    assert ledger.credential("account:a") == "secret"
    assert ledger.version("account:owner") == 1
    assert ledger.append("account:owner", toggles("account:owner", 1), 1, guard=guard).positions == (4,)


def test_only_one_of_two_appends_that_guard_each_other_succeeds(ledger: Ledger) -> None:
    pair = ("account:a", "account:b")
    for name in pair:
        ledger.append(name, toggles(name), 0)

    def change(target: str, by: str) -> bool:
        try:
            ledger.append(target, toggles(target, 1), 1, guard=Guard(by, 1))
        except VersionConflictError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(change, pair, reversed(pair))) == [False, True]


def test_a_request_that_met_a_conflict_can_be_retried(ledger: Ledger) -> None:
    request = Idempotency("caller", "asked")
    with pytest.raises(VersionConflictError):
        ledger.append("key:a", toggles("key:a", 1), 1, request)
    appended = ledger.append("key:a", toggles("key:a"), 0, request)
    assert appended == Appended("key:a", (1,))
    assert ledger.recall(request) == Appended("key:a", (1,), repeated=True)


def test_an_event_that_cannot_be_encoded_prevents_the_whole_append(ledger: Ledger) -> None:
    lone_surrogate = msgspec.structs.replace(toggles("key:a", 1)[0], id="\ud800")
    with pytest.raises(ValueError, match="surrogate"):
        ledger.append("key:a", [*toggles("key:a"), lone_surrogate], 0, Idempotency("n", "f"), "secret")
    assert ledger.head() == BEGINNING
    assert ledger.history("key:a") == []
    assert ledger.recall(Idempotency("n", "f")) is None
    assert ledger.credential("key:a") is None


def test_a_repeated_request_returns_the_first_outcome_despite_later_events(ledger: Ledger) -> None:
    request = Idempotency("caller", "asked")
    first = ledger.append("key:a", toggles("key:a", count=2), 0, request, "first")
    ledger.append("key:a", toggles("key:a", 2), 2)
    again = ledger.append("key:z", toggles("key:z"), 0, request, "second")
    assert again == Appended("key:a", first.positions, repeated=True) == ledger.recall(request)
    assert ledger.head().position == 3
    assert (ledger.credential("key:a"), ledger.credential("key:z")) == ("first", None)


def test_a_repeated_request_is_recognized_before_its_version_is_checked(ledger: Ledger) -> None:
    request = Idempotency("caller", "asked")
    first = ledger.append("key:a", toggles("key:a"), 0, request)
    ledger.append("key:a", toggles("key:a", 1), 1)
    assert ledger.append("key:a", toggles("key:a"), 0, request).positions == first.positions
    with pytest.raises(IdempotencyConflictError):
        ledger.append("key:a", toggles("key:a"), 0, Idempotency("caller", "something else"))


def test_requests_with_different_idempotency_keys_are_independent(ledger: Ledger) -> None:
    ledger.append("key:a", toggles("key:a"), 0, Idempotency("caller/1", "asked"))
    assert ledger.recall(Idempotency("caller/2", "asked")) is None
    assert not ledger.append("key:a", toggles("key:a", 1), 1, Idempotency("caller/2", "asked")).repeated


def test_reusing_an_idempotency_key_for_another_request_is_a_conflict(ledger: Ledger) -> None:
    ledger.append("key:a", toggles("key:a"), 0, Idempotency("caller", "asked"))
    with pytest.raises(IdempotencyConflictError):
        ledger.append("key:b", toggles("key:b"), 0, Idempotency("caller", "something else"))
    with pytest.raises(IdempotencyConflictError):
        ledger.recall(Idempotency("caller", "something else"))
    assert ledger.head().position == 1


def test_a_credential_is_stored_with_its_event_but_outside_the_log(ledger: Ledger) -> None:
    ledger.append("account:a", toggles("account:a"), 0, credential="hash")
    assert ledger.credential("account:a") == "hash"
    assert all(b"hash" not in record.body for record in ledger.read(0, 10))


def test_a_credential_can_be_restored_without_an_event(ledger: Ledger) -> None:
    ledger.keep_credential("account:a", "hash")
    assert ledger.credential("account:a") == "hash"
    assert ledger.head() == BEGINNING


def test_a_tail_returns_existing_events_or_nothing_after_its_wait(ledger: Ledger) -> None:
    ledger.append("key:a", toggles("key:a", count=3), 0)
    assert [record.position for record in ledger.tail(1, 10, 10)] == [2, 3]
    assert ledger.tail(3, 10, 10) == []


def test_a_waiting_tail_returns_the_next_event(ledger: Ledger) -> None:
    ledger.append("key:a", toggles("key:a"), 0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ledger.tail, 1, 10, 1_500)
        ledger.append("key:a", toggles("key:a", 1), 1)
        assert [record.position for record in waiting.result(5)] == [2]


def test_a_page_never_exceeds_the_requested_number_of_events(ledger: Ledger) -> None:
    ledger.append("key:a", toggles("key:a", count=5), 0)
    assert [record.position for record in ledger.read(1, 2)] == [2, 3]
    assert [record.position for record in ledger.tail(1, 2, 10)] == [2, 3]
    assert ledger.read(5, 2) == []
    assert [record.position for record in ledger.at([5, 1, 2, 9])] == [1, 2, 5]
    assert ledger.at([]) == []


def test_pages_cover_the_whole_log_and_reading_can_stop_early(ledger: Ledger) -> None:
    ledger.append("key:a", toggles("key:a", count=5), 0)
    assert [[record.position for record in page] for page in ledger.pages(1, 3)] == [[2, 3, 4], [5]]
    with closing(ledger.pages(0, 2)) as pages:
        assert next(pages) == ledger.read(0, 2)
    assert ledger.append("key:a", toggles("key:a", 5), 5).positions == (6,)


def test_filling_a_ledger_keeps_times_and_histories(ledger: Ledger) -> None:
    records = [Record(n, 1_000 + n, encode(event)) for n, event in enumerate(toggles("key:a", count=4), 1)]
    assert ledger.is_untouched()
    ledger.fill(0, records[:3])
    ledger.fill(3, records[3:])
    assert ledger.read(0, 10) == list(ledger.records("key:a")) == records
    assert not ledger.is_untouched()
    assert ledger.append("key:a", toggles("key:a", 4), 4).positions == (5,)


@pytest.mark.parametrize("after", [0, 2])
def test_filling_after_a_wrong_position_writes_nothing(ledger: Ledger, after: int) -> None:
    ledger.append("key:a", toggles("key:a"), 0)
    with pytest.raises(UnexpectedHeadError):
        ledger.fill(after, [Record(after + 1, 1, encode(toggles("key:b")[0]))])
    assert ledger.head().position == 1
    assert ledger.history("key:b") == []


def test_times_never_decrease_and_are_equal_within_an_append(ledger: Ledger) -> None:
    for version in range(0, 6, 2):
        ledger.append("key:a", toggles("key:a", version, 2), version)
    times = [record.at for record in ledger.read(0, 10)]
    assert times == sorted(times)
    assert times[::2] == times[1::2]


@pytest.mark.parametrize("at", [LAST_TIME, LAST_TIME + 1, 10**16 - 1])
def test_an_event_after_one_in_the_far_future_has_a_printable_time(ledger: Ledger, at: int) -> None:
    ledger.fill(0, [Record(1, at, encode(toggles("key:a")[0]))])
    appended = ledger.append("key:a", toggles("key:a", 1, 2), 1)
    assert [appended.at, *(record.at for record in ledger.read(1, 10))] == [LAST_TIME] * 3


def test_a_checkpoint_is_valid_while_its_event_is_in_place(ledger: Ledger) -> None:
    assert ledger.head() == BEGINNING
    assert ledger.holds(BEGINNING)
    ledger.append("key:a", toggles("key:a", count=2), 0)
    assert checkpoint_at(ledger.read(0, 10)) == ledger.head() == Checkpoint(2, "key:a/2")
    assert ledger.holds(Checkpoint(1, "key:a/1"))


@pytest.mark.parametrize("lost", [Checkpoint(3, "key:a/3"), Checkpoint(2, "another")])
def test_a_checkpoint_is_invalid_after_the_ledger_went_backwards(ledger: Ledger, lost: Checkpoint) -> None:
    ledger.append("key:a", toggles("key:a", count=2), 0)
    assert not ledger.holds(lost)


def test_concurrent_appends_write_each_version_once(ledger: Ledger) -> None:
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


def test_the_memory_ledger_overrides_every_public_method_of_the_ledger() -> None:
    public = {name for name in vars(Ledger) if not name.startswith("_")}
    assert public <= vars(MemoryLedger).keys()


def test_times_never_decrease_in_the_memory_ledger() -> None:
    ledger = MemoryLedger(now=iter([5, 3]).__next__)
    for version in range(2):
        ledger.append("key:a", toggles("key:a", version), version)
    assert [record.at for record in ledger.read(0, 10)] == [5, 5]


# The tests below access the store itself, so they don't apply to the memory ledger.


def test_times_never_decrease_in_a_stored_log(stored_ledger: Ledger, any_store: Redis) -> None:
    far = 99_999_999_999_999
    any_store.xadd(LOG, {"at": far, "event": b"{}"}, id="0-*")
    stored_ledger.append("key:a", toggles("key:a"), 0)
    assert [record.at for record in stored_ledger.read(0, 10)] == [far, far]


def test_an_idempotency_record_expires_after_a_day(stored_ledger: Ledger, any_store: Redis) -> None:
    stored_ledger.append("key:a", toggles("key:a"), 0, Idempotency("caller", "asked"))
    assert 86_000 < any_store.ttl("{kl:0}:idempotent:caller") <= 86_400


RECORD = "{kl:0}:idempotent:caller"
ASKED = Idempotency("caller", "asked")


def forged(real: bytes) -> dict[str, bytes]:
    """Forged records that could replace a real one."""
    _, _, body = real.partition(b" ")
    return {
        "empty": b"",
        "not text": b"\xff\xfe",
        "without a code": body,
        "with another code": b"0" * 64 + b" " + body,
        "of another subject": real.replace(b"key:a", b"key:b"),
        "of other events": real.replace(b" 0 1 ", b" 0 2 "),
        "in the old form": b"asked key:a 1",
    }


@pytest.mark.parametrize("kind", forged(b" "))
def test_a_forged_idempotency_record_does_not_make_a_command_look_done(
    stored_ledger: Ledger, any_store: Redis, kind: str
) -> None:
    stored_ledger.append("key:a", toggles("key:a"), 0, ASKED)
    any_store.set(RECORD, forged(cast("bytes", any_store.get(RECORD)))[kind])
    assert stored_ledger.recall(ASKED) is None
    assert not stored_ledger.append("key:a", toggles("key:a", 1), 1, ASKED).repeated
    assert stored_ledger.append("key:a", toggles("key:a", 2), 2, ASKED).positions == (2,)


def test_an_idempotency_record_of_another_redis_type_is_replaced(
    stored_ledger: Ledger, any_store: Redis
) -> None:
    any_store.hset(RECORD, "fingerprint", "asked")
    assert stored_ledger.recall(ASKED) is None
    assert not stored_ledger.append("key:a", toggles("key:a"), 0, ASKED).repeated
    assert stored_ledger.append("key:a", toggles("key:a", 1), 1, ASKED).repeated


def test_an_idempotency_record_copied_from_another_request_is_rejected(
    stored_ledger: Ledger, any_store: Redis
) -> None:
    stored_ledger.append("key:b", toggles("key:b"), 0, Idempotency("victim", "asked"))
    any_store.set(RECORD, cast("bytes", any_store.get("{kl:0}:idempotent:victim")))
    assert stored_ledger.recall(ASKED) is None


def test_an_idempotency_record_whose_events_were_lost_is_rejected(
    stored_ledger: Ledger, any_store: Redis
) -> None:
    stored_ledger.append("key:a", toggles("key:a"), 0, ASKED)
    any_store.delete(LOG, "{kl:0}:subject:key:a")
    assert stored_ledger.recall(ASKED) is None
    assert not stored_ledger.append("key:a", toggles("key:a"), 0, ASKED).repeated


def test_idempotency_without_a_secret_key_is_rejected(any_store: Redis) -> None:
    with pytest.raises(ValueError, match="needs the secret key"):
        Ledger(any_store).append("key:a", toggles("key:a"), 0, ASKED)
    assert not any_store.exists(LOG)


def test_all_redis_keys_of_the_ledger_are_in_one_hash_slot(stored_ledger: Ledger, any_store: Redis) -> None:
    stored_ledger.append("account:a", toggles("account:a"), 0, Idempotency("n", "f"), credential="hash")
    assert all(name.startswith(b"{kl:0}:") for name in any_store.scan_iter())


def test_appends_still_work_after_the_store_loses_its_scripts(
    stored_ledger: Ledger, any_store: Redis
) -> None:
    stored_ledger.append("key:a", toggles("key:a"), 0)
    any_store.script_flush()
    assert stored_ledger.append("key:a", toggles("key:a", 1), 1).positions == (2,)
    any_store.script_flush()
    assert len(stored_ledger.history("key:a")) == 2


def contents(store: Redis) -> dict[bytes, bytes]:
    """The contents of a store."""
    return {name: cast("bytes", store.dump(name)) for name in sorted(store.scan_iter())}


@pytest.mark.parametrize("damaged", [LOG, "{kl:0}:subject:key:a"])
def test_an_append_that_meets_a_redis_key_of_another_type_writes_nothing(
    stored_ledger: Ledger, any_store: Redis, damaged: str
) -> None:
    any_store.set(damaged, "not what it should be")
    before = contents(any_store)
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        stored_ledger.append("key:a", toggles("key:a", count=2), 0, Idempotency("caller", "asked"), "secret")
    assert contents(any_store) == before


def test_an_append_to_a_log_with_unexpected_positions_writes_nothing(
    stored_ledger: Ledger, any_store: Redis
) -> None:
    any_store.xadd(LOG, {"at": 1, "event": b"{}"}, id="7-1")
    before = contents(any_store)
    with pytest.raises(ResponseError, match="equal or smaller"):
        stored_ledger.append("key:a", toggles("key:a", count=2), 0, Idempotency("caller", "asked"), "secret")
    assert contents(any_store) == before


def test_a_very_large_append_is_all_or_nothing(stored_ledger: Ledger, any_store: Redis) -> None:
    with suppress(ResponseError):
        stored_ledger.append("key:a", toggles("key:a", count=9_000), 0, Idempotency("caller", "asked"))
    positions = [record.position for record in stored_ledger.read(0, 10_000)]
    assert positions == list(range(1, len(positions) + 1))
    assert len(positions) in (0, 9_000)
    assert len(list(stored_ledger.records("key:a"))) == len(positions)
    assert bool(any_store.exists("{kl:0}:idempotent:caller")) == bool(positions)
