"""The audit log's failed and waiting jobs."""

import binascii
import zlib
from base64 import b64decode
from typing import NamedTuple, cast

from redis import Redis
from rq import Queue
from rq.results import Result

from services.audit.ingest.job import QUEUE

_REASON_BYTES = 2_000  # of a reason, which may have any length in the store


class Failure(NamedTuple):
    """A job that failed: when, in ms since 1970, and why."""

    at: int
    reason: str


class Failures:
    """The jobs that RQ keeps for an hour. Every method raises redis.RedisError."""

    def __init__(self, store: Redis) -> None:
        self._store = store
        self._queue = Queue(QUEUE, connection=store)

    def waiting(self) -> int:
        """The number of waiting jobs."""
        return self._store.llen(self._queue.key)

    def count(self, now: int) -> int:
        """The number of jobs that failed within an hour before a time in ms."""
        return self._store.zcount(self._queue.failed_job_registry.key, now / 1000, "+inf")

    def newest(self, limit: int) -> list[Failure]:
        """The newest failures."""
        ids = cast("list[bytes]", self._store.zrevrange(self._queue.failed_job_registry.key, 0, limit - 1))
        with self._store.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.xrevrange(Result.get_key(job_id.decode(errors="replace")), count=1)
            found = pipe.execute(raise_on_error=False)
        failures = [_failure(*results[0]) for results in found if isinstance(results, list) and results]
        return sorted(failures, reverse=True)  # RQ orders them only by the second


def _failure(result_id: bytes, result: dict[bytes, bytes]) -> Failure:
    return Failure(int(result_id.partition(b"-")[0]), _reason(result.get(b"exc_string", b"")))


def _reason(packed: bytes) -> str:
    try:
        text = zlib.decompressobj().decompress(b64decode(packed), _REASON_BYTES)
    except (binascii.Error, zlib.error):
        return "The reason in the store can't be read."
    return text.decode(errors="replace")
