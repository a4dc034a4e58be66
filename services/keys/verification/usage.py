"""When each key was last used, and its verdicts per day. Stored outside the ledger.

Gathered in memory, and flushed once a second and at the end: a crash loses a second of counts, and nothing
else.
"""

import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from threading import Event as Stop
from threading import Lock
from typing import NamedTuple, TypeAlias, cast

from redis import Redis

from shared.eventstore.ledger import NAMESPACE
from shared.eventstore.subscription import UNAVAILABLE
from shared.process.periodic import run_periodically

KEPT_DAYS = 92
_DAY_MS = 24 * 60 * 60 * 1000
_FLUSH_EVERY_S = 1.0
_BATCH = 500  # counts in one step of the store, which holds it for about a millisecond
_MAX_WAITING = 1_000_000  # counts that are kept for a store that is away; a key has a few a day
_BATCH_LIFE_S = 24 * 60 * 60

# Adds a batch of counts to the store, once: one whose answer was lost is sent again with its number.
# KEYS  1 the number of this process's last batch, then for each count
#       2n the time of the key's last use  2n + 1 the key's counts of the day
# ARGV  1 this batch's number  2 the life of that number in s  3 the life of the counts in s,
#       then for each count  3n + 1 the verdict  3n + 2 how many  3n + 3 the time of the last, in ms
_ADD = """
if tonumber(redis.call('GET', KEYS[1]) or 0) >= tonumber(ARGV[1]) then return end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
for n = 1, (#KEYS - 1) / 2 do
  local last, counts = KEYS[2 * n], KEYS[2 * n + 1]
  redis.call('HINCRBY', counts, ARGV[3 * n + 1], ARGV[3 * n + 2])
  redis.call('EXPIRE', counts, ARGV[3])
  if tonumber(redis.call('GET', last) or 0) < tonumber(ARGV[3 * n + 3]) then
    redis.call('SET', last, ARGV[3 * n + 3])
  end
end
"""

Use: TypeAlias = tuple[str, str, int]  # a key's id, the verdict, ms since 1970


class _Count(NamedTuple):
    """One counter: a key, a verdict and a day, in days since 1970."""

    key_id: str
    code: str
    day: int


class Day(NamedTuple):
    """The verdicts on a key on one day in UTC, with their counts."""

    date: str
    counts: dict[str, int]


class Used(NamedTuple):
    """When a key was last used, in ms, and its days that have counts, newest first."""

    last_used_at: int | None
    days: list[Day]


class Usage:
    """Buffers the counts of this process, and reads the totals of all processes."""

    def __init__(self, store: Redis) -> None:
        self._store = store
        self._add = store.register_script(_ADD)
        self._uses: deque[Use] = deque()
        self._waiting: dict[_Count, tuple[int, int]] = {}  # how many, and the time of the last
        self._batch: list[tuple[_Count, tuple[int, int]]] = []  # sent until it is acknowledged
        self._number = 1
        self._process = f"{NAMESPACE}:usage-flushed:{uuid.uuid4().hex}"
        self._flushing = Lock()
        self.note = self._uses.append  # for the way of each verdict: it is one step, and takes no lock

    def run(self, stop: Stop) -> None:
        """Flushes once a second until `stop` is set."""
        run_periodically("flush usage", self.flush, stop, every_s=_FLUSH_EVERY_S, retry_on=UNAVAILABLE)

    def flush(self) -> None:
        """Writes the buffered counts to the store. Raises redis.RedisError; what isn't written stays."""
        with self._flushing:
            self._add_up()
            while self._batch or self._waiting:
                if not self._batch:
                    self._batch = [*islice(self._waiting.items(), _BATCH)]
                    for count, _ in self._batch:
                        del self._waiting[count]
                self._send()
                self._batch = []
                self._number += 1

    def read(self, key_id: str, days: int, now: int) -> Used:
        """The last use of a key, and its counts of the last days, including today."""
        today = now // _DAY_MS
        dates = [_date(today - back) for back in range(days)]
        with self._store.pipeline(transaction=False) as commands:
            commands.get(_last_key(key_id))
            for date in dates:
                commands.hgetall(_counts_key(key_id, date))
            last, *counts = commands.execute()
        found = (
            Day(date, {code.decode(): int(count) for code, count in sorted(row.items())})
            for date, row in zip(dates, counts, strict=True)
            if row
        )
        return Used(None if last is None else int(last), [*found])

    def last_used(self, key_ids: Sequence[str]) -> dict[str, int]:
        """When each of these keys was last used, in ms. Keys that were never used are left out."""
        names = map(_last_key, key_ids)
        found = cast("list[bytes | None]", self._store.mget(*names) if key_ids else [])
        return {key_id: int(last) for key_id, last in zip(key_ids, found, strict=True) if last is not None}

    def _add_up(self) -> None:
        for _ in range(len(self._uses)):
            key_id, code, at = self._uses.popleft()
            count = _Count(key_id, code, at // _DAY_MS)
            before, last = self._waiting.get(count, (0, 0))
            if before or len(self._waiting) < _MAX_WAITING:
                self._waiting[count] = before + 1, max(last, at)

    def _send(self) -> None:
        keys, arguments = [self._process], [self._number, _BATCH_LIFE_S, KEPT_DAYS * _DAY_MS // 1000]
        keys += [key for count, _ in self._batch for key in _keys(count)]
        values = [value for count, (many, last) in self._batch for value in (count.code, many, last)]
        self._add(keys, [*arguments, *values])


def _keys(count: _Count) -> Iterator[str]:
    yield _last_key(count.key_id)
    yield _counts_key(count.key_id, _date(count.day))


def _last_key(key_id: str) -> str:
    return f"{NAMESPACE}:usage:{key_id}"


def _counts_key(key_id: str, date: str) -> str:
    return f"{NAMESPACE}:usage:{key_id}:{date}"


def _date(day: int) -> str:
    """`2026-11-23`, of the days since 1970 in UTC."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)).date().isoformat()
