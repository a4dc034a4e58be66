"""The ledger: an append-only Redis stream of events.

Every Redis key has the hash tag `{kl:0}`, so that each atomic step stays in one slot. The module is long
because appending and reading share these keys and the connection.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple, cast

import structlog
from redis import Redis
from redis.exceptions import NoScriptError, OutOfMemoryError, ResponseError

from shared.eventstore.codec import decode, encode, name_of
from shared.eventstore.envelope import Event, NewEvent, Record
from shared.eventstore.scripts import APPEND, APPEND_FROM_RESERVE, APPEND_SHA, FILL, HISTORY
from shared.store.connections import StoreError
from shared.store.idempotency import Idempotency, IdempotencyRecords, RecordedAppend
from shared.store.reserve import Reserve, may_use_reserve

NAMESPACE = "{kl:0}"
LOG = f"{NAMESPACE}:log"
_NO_KEY = f"{NAMESPACE}:none"
_IDEMPOTENCY_LIFE_S = 24 * 60 * 60
_MAX_REJECTIONS = 3  # of invalid idempotency records in one append
_HISTORY_PAGE = 500
_WAIT_MS = 1_000  # for replicas; shorter than the time-out of a client
_log = structlog.get_logger(__name__)


class Guard(NamedTuple):
    """Another subject that an append depends on: it must still be at this version."""

    subject: str
    version: int


class Checkpoint(NamedTuple):
    """How far a reader got: a position, and the ID of the event there. (0, '') is the beginning."""

    position: int
    event_id: str

    @classmethod
    def parse(cls, stored: bytes | None) -> "Checkpoint":
        """Returns a stored checkpoint, and the beginning for None."""
        if stored is None:
            return BEGINNING
        position, _, event_id = stored.decode().partition(" ")
        return cls(int(position), event_id)

    @property
    def stored(self) -> str:
        return f"{self.position} {self.event_id}"


@dataclass(frozen=True)
class Appended:
    """The positions of a command's events. `repeated`: an earlier, equal request appended them."""

    subject: str
    positions: tuple[int, ...]
    repeated: bool = False
    at: int = field(default=0, compare=False)  # in ms; 0 if they were repeated

    @property
    def position(self) -> int:
        return self.positions[-1]


class VersionConflictError(Exception):
    """The subject, or the guard, isn't at the version that the command was decided on."""

    def __init__(self, subject: str, expected: int | str, actual: int) -> None:
        super().__init__(f"{subject} is at version {actual}, not {expected}")
        self.subject = subject
        self.actual = actual


class NotReplicatedError(Exception):
    """The store has the events, but too few replicas confirmed in time that they have them too.

    A failover could lose them. The same call with the same idempotency confirms or repeats the append.
    """


class UnexpectedHeadError(Exception):
    """The log doesn't end where an import left it: something else wrote to it."""


class Ledger:
    """Appends and reads events.

    An append is acknowledged when the store has it on disk and `ack_replicas` replicas have it. `reserve` is
    spared except by events that may use it. Idempotency needs the secret key.
    """

    def __init__(
        self, store: Redis, ack_replicas: int = 0, *, secret_key: str = "", reserve: Reserve | None = None
    ) -> None:
        self._store = _unshaped(store)
        self._ack_replicas = ack_replicas
        self._idempotency = IdempotencyRecords(secret_key)
        self._reserve = reserve
        self._history = store.register_script(HISTORY)

    def append(
        self,
        subject: str,
        events: Sequence[NewEvent],
        expected_version: int,
        idempotency: Idempotency | None = None,
        credential: str = "",
        guard: Guard | None = None,
    ) -> Appended:
        """Appends all the events or none, and returns once the store has acknowledged them.

        `credential` is stored for the subject outside the log. `guard` is checked in the same atomic step.
        Raises VersionConflictError, IdempotencyConflictError, NotReplicatedError, redis.RedisError. After a
        lost connection or a time-out the outcome is unknown: repeat the call with the same idempotency.
        Raises OutOfMemoryError, a RedisError, if nothing was written because the store is full.
        """
        keys = [LOG, _index_key(subject), _idempotency_key(idempotency), credential_key(subject)]
        bodies = [*map(encode, events)]
        appends = RecordedAppend(expected_version, len(bodies), subject)
        record = self._idempotency.encode(idempotency, appends) if idempotency else b""
        guards = [guard.version] if guard else []
        if guard:
            keys.append(_index_key(guard.subject))
        from_reserve = may_use_reserve(events)
        if self._reserve and not from_reserve:
            self._reserve.spare()
        rejected = b"none"
        for _ in range(_MAX_REJECTIONS):
            options = expected_version, record, _IDEMPOTENCY_LIFE_S, rejected, credential
            reply = self._run_append(keys, [*options, *bodies, *guards], from_reserve=from_reserve)
            match reply[0]:
                case b"appended":
                    return Appended(subject, _positions(reply[1]), at=reply[2])
                case b"conflict":
                    raise VersionConflictError(subject, expected_version, reply[1])
                case b"guarded" if guard:
                    raise VersionConflictError(guard.subject, guard.version, reply[1])
            rejected = reply[1]
            if idempotency and (earlier := self._earlier(rejected, idempotency)):
                return earlier
        raise StoreError("Something else writes idempotency records to the store: stop it, then try again.")

    def fill(self, after: int, records: Sequence[Record]) -> None:
        """Appends events after position `after` with their own times, all of them or none. Only for imports.

        Raises UnexpectedHeadError, NotReplicatedError, redis.RedisError.
        """
        subjects = (name_of(record).subject for record in records)
        indices = [_NO_KEY if subject is None else _index_key(subject) for subject in subjects]
        bodies = (value for record in records for value in (record.at, record.body))
        if self._written("EVAL", FILL, 1 + len(indices), LOG, *indices, after, _NO_KEY, *bodies) is not None:
            raise UnexpectedHeadError

    def keep_credential(self, subject: str, credential: str) -> None:
        """Stores a credential without an event. Only for restores.

        Raises NotReplicatedError, redis.RedisError.
        """
        self._written("SET", credential_key(subject), credential)

    def is_untouched(self) -> bool:
        """Whether nothing was ever written: no event, and no index of a log that was deleted."""
        return self.head() == BEGINNING and not any(self._store.scan_iter(_index_key("*"), count=1_000))

    def recall(self, idempotency: Idempotency | None) -> Appended | None:
        """Returns what an equal request appended. Raises IdempotencyConflictError, NotReplicatedError."""
        if idempotency is None:
            return None
        try:
            record = cast("bytes | None", self._store.get(_idempotency_key(idempotency)))
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            record = b""
        return None if record is None else self._earlier(record, idempotency)

    def history(self, subject: str) -> list[Event]:
        """All events of one subject, oldest first. Raises UnreadableEventError."""
        return [decode(record) for record in self.records(subject)]

    def records(self, subject: str, after: int = 0) -> Iterator[Record]:
        """The stored events of a subject after a version, read page by page."""
        while True:
            page = self.page(subject, after, _HISTORY_PAGE)
            yield from page
            after += len(page)
            if len(page) < _HISTORY_PAGE:
                return

    def page(self, subject: str, after: int, limit: int) -> list[Record]:
        """The next `limit` events (1 or more) of a subject after a version, oldest first."""
        return [*map(_record, self._history([LOG, _index_key(subject)], [after, after + limit - 1]))]

    def last(self, subject: str) -> Event | None:
        """The newest event of one subject. Raises UnreadableEventError."""
        page = self.page(subject, max(self.version(subject) - 1, 0), 1)
        return decode(page[0]) if page else None

    def version(self, subject: str) -> int:
        """How many events a subject has."""
        return self._store.llen(_index_key(subject))

    def read(self, after: int, limit: int) -> list[Record]:
        """The next `limit` events after a position, oldest first."""
        entries = self._store.xrange(LOG, min=f"(0-{after}", max="+", count=limit)
        return [_record(entry) for entry in cast("list[Any]", entries)]

    def pages(self, after: int, limit: int) -> Generator[list[Record], None, None]:
        """All events after a position, in pages. Each is requested while the one before is handled."""
        # Any: redis-py publishes no types of a single connection.
        connection: Any = self._store.connection_pool.get_connection()
        try:
            connection.send_command("XRANGE", LOG, f"(0-{after}", "+", "COUNT", limit)
            while entries := connection.read_response():
                connection.send_command("XRANGE", LOG, f"({entries[-1][0].decode()}", "+", "COUNT", limit)
                yield [_record(entry) for entry in entries]
        except BaseException:
            connection.disconnect()  # a reply may still arrive
            raise
        finally:
            self._store.connection_pool.release(connection)

    def at(self, positions: Iterable[int]) -> list[Record]:
        """The events at these positions, in order; missing ones are left out."""
        with cast("Any", self._store.pipeline(transaction=False)) as pipe:
            for first, last in _runs(positions):
                pipe.xrange(LOG, f"0-{first}", f"0-{last}")
            return [_record(entry) for entries in pipe.execute() for entry in entries]

    def tail(self, after: int, limit: int, wait_ms: int) -> list[Record]:
        """The next `limit` events after a position, waiting up to `wait_ms` for the first one.

        The time-out of the connection must be longer.
        """
        streams = cast("Any", self._store.xread({LOG: f"0-{after}"}, count=limit, block=wait_ms))
        # RESP3 replies with a map from stream to entries, RESP2 with a list of pairs.
        pairs = streams.items() if isinstance(streams, dict) else streams or ()
        return [_record(entry) for _, entries in pairs for entry in entries]

    def head(self) -> Checkpoint:
        """The checkpoint of the last event; the beginning of an empty ledger."""
        newest = self.newest()
        return _checkpoint(newest) if newest else BEGINNING

    def newest(self) -> Record | None:
        """The last event as it is stored; None if the ledger is empty."""
        entries = cast("list[Any]", self._store.xrevrange(LOG, count=1))
        return _record(entries[0]) if entries else None

    def holds(self, checkpoint: Checkpoint) -> bool:
        """Whether the ledger still has the event of a checkpoint. If not, it went backwards."""
        if checkpoint == BEGINNING:
            return True
        records = self.read(checkpoint.position - 1, 1)
        return bool(records) and _checkpoint(records[0]) == checkpoint

    def credential(self, subject: str) -> str | None:
        """What an append stored for the subject outside the log."""
        value = cast("bytes | None", self._store.get(credential_key(subject)))
        return value.decode() if value is not None else None

    def _run_append(
        self, keys: list[str], arguments: Sequence[bytes | str | int], *, from_reserve: bool
    ) -> list[Any]:
        try:
            return self._run(keys, arguments)
        except OutOfMemoryError:  # raised by the first write, so nothing was written
            if not from_reserve:
                raise
            call = (len(keys), *keys, *arguments)
            return cast("list[Any]", self._written("EVAL", APPEND_FROM_RESERVE, *call))

    def _run(self, keys: list[str], arguments: Sequence[bytes | str | int]) -> list[Any]:
        if not self._ack_replicas:
            # redis-py's Script would cost a twentieth of an append.
            execute = cast("Any", self._store).execute_command
            call = (len(keys), *keys, *arguments)
            try:
                return cast("list[Any]", execute("EVALSHA", APPEND_SHA, *call))
            except NoScriptError:  # the store was restarted
                return cast("list[Any]", execute("EVAL", APPEND, *call))
        return cast("list[Any]", self._written("EVAL", APPEND, len(keys), *keys, *arguments))

    def _earlier(self, record: bytes, idempotency: Idempotency) -> Appended | None:
        """Returns what a record says was appended; None if it isn't valid or the ledger lacks its events.

        Raises IdempotencyConflictError, NotReplicatedError.
        """
        recorded = self._idempotency.decode(record, idempotency)
        if recorded is None:
            return None
        version, count, subject = recorded
        positions = cast("list[bytes]", self._store.lrange(_index_key(subject), version, version + count - 1))
        if len(positions) != count:
            _log.warning("idempotency record rejected: the ledger lacks its events", subject=subject)
            return None
        if self._ack_replicas:
            # The first request may have failed because replicas lacked it. Replicas get writes in order, so
            # one that has this write has that one too.
            self._written("EXPIRE", _idempotency_key(idempotency), _IDEMPOTENCY_LIFE_S)
        return Appended(subject, tuple(map(int, positions)), repeated=True)

    def _written(self, *write: Any) -> Any:
        """Writes, and waits on the same connection until the replicas have it. Raises NotReplicatedError."""
        if not self._ack_replicas:
            return cast("Any", self._store).execute_command(*write)
        with cast("Any", self._store.pipeline(transaction=False)) as pipe:
            pipe.execute_command(*write)
            pipe.execute_command("WAIT", self._ack_replicas, _WAIT_MS)
            reply, replicas = pipe.execute()
        if replicas < self._ack_replicas:
            raise NotReplicatedError(f"{replicas} of {self._ack_replicas} replicas have it")
        return reply


BEGINNING = Checkpoint(0, "")


def checkpoint_at(records: Sequence[Record]) -> Checkpoint:
    """The checkpoint after these records."""
    return _checkpoint(records[-1])


def credential_key(subject: str) -> str:
    """The store's key of a subject's credential, which no projection and no export reads."""
    return f"{NAMESPACE}:credential:{subject}"


def _checkpoint(record: Record) -> Checkpoint:
    return Checkpoint(record.position, name_of(record).id or "")


def _index_key(subject: str) -> str:
    return f"{NAMESPACE}:subject:{subject}"


def _idempotency_key(idempotency: Idempotency | None) -> str:
    return f"{NAMESPACE}:idempotent:{idempotency.name}" if idempotency else _NO_KEY


def _runs(positions: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The first and the last of each run of positions without a gap."""
    for _, run in groupby(enumerate(sorted(positions)), lambda pair: pair[1] - pair[0]):
        places = [position for _, position in run]
        yield places[0], places[-1]


def _positions(text: bytes) -> tuple[int, ...]:
    return tuple(map(int, text.split()))


def _unshaped(store: Redis) -> Redis:
    """A client on the same connections that returns stream entries as the store sends them."""
    client = Redis(connection_pool=store.connection_pool)
    for command in ("XRANGE", "XREVRANGE", "XREAD"):
        client.set_response_callback(command, lambda reply, **_: reply)
    return client


def _record(entry: tuple[bytes, list[bytes]]) -> Record:
    entry_id, (_, at, _, body) = entry
    return Record(int(entry_id[2:]), int(at), body)
