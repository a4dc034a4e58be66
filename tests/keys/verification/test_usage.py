"""Usage counts, flushed to a real store."""

from datetime import UTC, datetime

import pytest
from redis import ConnectionError as StoreConnectionError
from redis import Redis
from redis import TimeoutError as StoreTimeoutError

from services.keys.verification.usage import Usage

DAY = 24 * 60 * 60 * 1000
NOW = int(datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp() * 1000)


def test_uses_are_counted_per_key_day_and_verdict(store: Redis) -> None:
    usage = Usage(store)
    for use in [
        ("a", "VALID", NOW - DAY),
        ("a", "VALID", NOW),
        ("a", "VALID", NOW - 1),
        ("a", "EXPIRED", NOW),
    ]:
        usage.note(use)
    usage.note(("b", "REVOKED", NOW - 40 * DAY))
    usage.flush()
    found = usage.read("a", 30, NOW)
    assert found.last_used_at == NOW
    assert found.days == [("2026-11-23", {"EXPIRED": 1, "VALID": 2}), ("2026-11-22", {"VALID": 1})]
    assert usage.read("a", 1, NOW).days == [("2026-11-23", {"EXPIRED": 1, "VALID": 2})]
    assert usage.read("b", 30, NOW) == (NOW - 40 * DAY, [])
    assert usage.read("b", 92, NOW).days == [("2026-10-14", {"REVOKED": 1})]
    assert usage.read("c", 92, NOW) == (None, [])


def test_several_processes_add_up_their_counts_and_keep_the_latest_use(store: Redis) -> None:
    late, early = Usage(store), Usage(store)
    late.note(("a", "VALID", NOW))
    early.note(("a", "VALID", NOW - 1))
    late.flush()
    early.flush()
    assert early.read("a", 1, NOW) == (NOW, [("2026-11-23", {"VALID": 2})])


def test_daily_counts_expire_after_92_days_and_the_last_use_never(store: Redis) -> None:
    usage = Usage(store)
    usage.note(("a", "VALID", NOW))
    usage.flush()
    assert store.ttl("{kl:0}:usage:a:2026-11-23") == pytest.approx(92 * 86_400, abs=5)
    assert store.ttl("{kl:0}:usage:a") == -1


def test_more_counts_than_fit_in_one_batch_are_all_saved(store: Redis) -> None:
    usage = Usage(store)
    for number in range(1_201):
        usage.note((str(number), "VALID", NOW))
    usage.flush()
    assert all(usage.read(str(number), 1, NOW).days for number in (0, 500, 1_200))


def test_counts_are_kept_while_the_store_is_unavailable(
    store: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = Usage(store)
    usage.note(("a", "VALID", NOW))
    with monkeypatch.context() as away:
        away.setattr(usage, "_add", _raising(StoreConnectionError("away")))
        for _ in range(3):
            with pytest.raises(StoreConnectionError):
                usage.flush()
            usage.note(("a", "VALID", NOW))
    usage.flush()
    assert usage.read("a", 1, NOW).days == [("2026-11-23", {"VALID": 4})]


def test_a_batch_whose_reply_was_lost_is_counted_once(store: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = Usage(store)
    add = usage._add

    def losing(keys: object, args: object) -> None:
        add(keys, args)  # type: ignore[arg-type]
        raise StoreTimeoutError

    usage.note(("a", "VALID", NOW))
    with monkeypatch.context() as lossy:
        lossy.setattr(usage, "_add", losing)
        with pytest.raises(StoreTimeoutError):
            usage.flush()
    usage.note(("a", "VALID", NOW))
    usage.flush()
    assert usage.read("a", 1, NOW).days == [("2026-11-23", {"VALID": 2})]


def test_pending_counts_are_bounded(store: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.keys.verification.usage._MAX_WAITING", 2)
    usage = Usage(store)
    for key_id in "abcab":
        usage.note((key_id, "VALID", NOW))
    usage.flush()
    assert [usage.read(key_id, 1, NOW).days for key_id in "abc"] == [
        [("2026-11-23", {"VALID": 2})],
        [("2026-11-23", {"VALID": 2})],
        [],
    ]


def _raising(error: Exception) -> object:
    def call(*_: object) -> None:
        raise error

    return call
