"""The ledger: one Redis stream of events that is only ever appended to.

Every Redis key carries the hash tag `{kl:0}`, so that each atomic step stays in one slot.
"""

import hashlib
import hmac
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple, cast

import structlog
from redis import Redis
from redis.exceptions import NoScriptError, OutOfMemoryError, ResponseError

from shared.clock import LAST_TIME
from shared.eventstore.codec import decode, encode, name_of
from shared.eventstore.envelope import Event, NewEvent, Record
from shared.store.connections import StoreError
from shared.store.record_mac import RecordMac
from shared.store.reserve import Reserve, may_use_reserve

NAMESPACE = "{kl:0}"
LOG = f"{NAMESPACE}:log"
_NO_KEY = f"{NAMESPACE}:none"
_IDEMPOTENCY_LIFE_S = 24 * 60 * 60
_REJECTIONS = 3  # of idempotency records that one append may meet
_HISTORY_PAGE = 500
_WAIT_MS = 1_000  # for replicas; shorter than a client waits for an answer
_log = structlog.get_logger(__name__)

# Appends events to the log. All checks come before the first write, for Lua does not roll back.
# KEYS  1 the log  2 the subject's index of positions  3 the idempotency record  4 the credential
#       5 the guard's index of positions, if there is a guard
# ARGV  1 the expected version  2 the idempotency record to keep, or ''  3 its life in s
#       4 a record that was rejected and may be replaced, or 'none'  5 the credential, or ''
#       6… the events' bodies  and last, if there is a guard, its expected version
# Gives {'repeated', record} | {'conflict', version} | {'guarded', version} | {'appended', positions, time},
# positions as one string of integers with blanks between. A record of another type is given as ''.
# The time is never earlier than the event before it, unless that one has a time that cannot be printed.
_APPEND = """
if ARGV[2] ~= '' then
  local record = redis.pcall('GET', KEYS[3])
  if type(record) == 'table' then record = '' end
  if record and record ~= ARGV[4] then return {'repeated', record} end
end
local version = redis.call('LLEN', KEYS[2])
if version ~= tonumber(ARGV[1]) then return {'conflict', version} end
local last_event = #ARGV
if KEYS[5] then
  local guarded = redis.call('LLEN', KEYS[5])
  if guarded ~= tonumber(ARGV[last_event]) then return {'guarded', guarded} end
  last_event = last_event - 1
end
local clock = redis.call('TIME')
local at = clock[1] * 1000 + math.floor(clock[2] / 1000)
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if last then at = math.max(at, math.min(tonumber(last[2][2]), LAST_TIME)) end

local positions = {}
for i = 6, last_event do
  local id = redis.call('XADD', KEYS[1], '0-*', 'at', at, 'event', ARGV[i])
  local position = string.sub(id, 3)
  redis.call('RPUSH', KEYS[2], position)
  positions[#positions + 1] = position
end
positions = table.concat(positions, ' ')
if ARGV[2] ~= '' then redis.call('SET', KEYS[3], ARGV[2], 'EX', ARGV[3]) end
if ARGV[5] ~= '' then redis.call('SET', KEYS[4], ARGV[5]) end
return {'appended', positions, at}
""".replace("LAST_TIME", str(LAST_TIME))

# The same for a store that is out of memory.
_APPEND_FROM_RESERVE = "#!lua flags=allow-oom" + _APPEND
_APPEND_SHA = hashlib.sha1(_APPEND.encode(), usedforsecurity=False).hexdigest()

# Reads a page of one subject's events by its index.
# KEYS  1 the log  2 the subject's index of positions
# ARGV  1 the index of the first event  2 that of the last; not computed here, where a large one loses digits
_HISTORY = """
local entries = {}
for _, position in ipairs(redis.call('LRANGE', KEYS[2], ARGV[1], ARGV[2])) do
  entries[#entries + 1] = redis.call('XRANGE', KEYS[1], '0-' .. position, '0-' .. position)[1]
end
return entries
"""


# Fills the log with events that have their positions and times already, as only an import does. All checks
# come before the first write.
# KEYS  1 the log  2… of each event the index of its subject, or the key of none
# ARGV  1 the position that the log must end at  2 the key of none  3… of each event its time and its body
# Gives the id that the log ends at instead, or nothing once the events are written.
_FILL = """
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local head = last and last[1] or '0-0'
if head ~= '0-' .. ARGV[1] then return head end
for i = 2, #KEYS do
  local position = string.format('%.0f', ARGV[1] + i - 1)
  redis.call('XADD', KEYS[1], '0-' .. position, 'at', ARGV[2 * i - 1], 'event', ARGV[2 * i])
  if KEYS[i] ~= ARGV[2] then redis.call('RPUSH', KEYS[i], position) end
end
return false
"""


class Idempotency(NamedTuple):
    """One caller's request: `name` says which, `fingerprint` what it asked for."""

    name: str
    fingerprint: str

    @classmethod
    def of(cls, caller: str, key: str, asked: bytes) -> "Idempotency":
        """By the caller's own key for the request; of that and of what was asked, only hashes are kept."""
        return cls(f"{caller}:{_sha256(key.encode())}", _sha256(asked))


class Guard(NamedTuple):
    """Another subject that an append depends on: it must still be at the version that was decided on."""

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
    """Where the events of a command are. `repeated`: they were there from an earlier, equal request."""

    subject: str
    positions: tuple[int, ...]
    repeated: bool = False
    at: int = field(default=0, compare=False)  # in ms; 0, where they were there already

    @property
    def position(self) -> int:
        """The last one."""
        return self.positions[-1]


class VersionConflictError(Exception):
    """The subject, or the guard, is not at the version that the command was decided on."""

    def __init__(self, subject: str, expected: int | str, actual: int) -> None:
        super().__init__(f"{subject} is at version {actual}, not {expected}")
        self.subject = subject
        self.actual = actual


class NotReplicatedError(Exception):
    """The store has the events, but too few replicas said in time that they have them too.

    Whether they outlast a failover is unknown; the same call with the same idempotency settles it.
    """


class IdempotencyConflictError(Exception):
    """The idempotency key was used for another request."""


class UnexpectedHeadError(Exception):
    """The log does not end where an import left it: somebody else wrote to it."""


class Ledger:
    """Append, history, read and tail, over a connection that is passed in.

    An append is acknowledged when the store has it on disk, and so many replicas have it. Ordinary ones leave
    the store its reserve, if there is one. Idempotency needs the secret key, which authenticates its records.
    """

    def __init__(
        self, store: Redis, ack_replicas: int = 0, *, secret_key: str = "", reserve: Reserve | None = None
    ) -> None:
        self._store = _unshaped(store)
        self._ack_replicas = ack_replicas
        self._mac = RecordMac(secret_key, "idempotency") if secret_key else None
        self._reserve = reserve
        self._history = store.register_script(_HISTORY)

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

        `credential` is kept for the subject apart from the log. `guard` is compared in the same step.
        Raises VersionConflictError, IdempotencyConflictError, NotReplicatedError, redis.RedisError; after a
        lost connection or a time-out the outcome is unknown, and the same call with the same idempotency
        settles it. Raises OutOfMemoryError, a RedisError, if nothing was written for lack of room.
        """
        keys = [LOG, _index_key(subject), _idempotency_key(idempotency), credential_key(subject)]
        bodies = [*map(encode, events)]
        record = self._record_of(idempotency, expected_version, len(bodies), subject) if idempotency else b""
        guards = [guard.version] if guard else []
        if guard:
            keys.append(_index_key(guard.subject))
        from_reserve = may_use_reserve(events)
        if self._reserve and not from_reserve:
            self._reserve.spare()
        rejected = b"none"
        for _ in range(_REJECTIONS):
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
        """Writes the events that follow position `after`, with their own times, all of them or none.

        Only for an import. Raises UnexpectedHeadError, NotReplicatedError, redis.RedisError.
        """
        subjects = (name_of(record).subject for record in records)
        indices = [_NO_KEY if subject is None else _index_key(subject) for subject in subjects]
        bodies = (value for record in records for value in (record.at, record.body))
        if self._written("EVAL", _FILL, 1 + len(indices), LOG, *indices, after, _NO_KEY, *bodies) is not None:
            raise UnexpectedHeadError

    def keep_credential(self, subject: str, credential: str) -> None:
        """Keeps what an append once kept for the subject apart from the log.

        Only for a restore. Raises NotReplicatedError, redis.RedisError.
        """
        self._written("SET", credential_key(subject), credential)

    def is_untouched(self) -> bool:
        """Whether nothing was ever written: neither an event nor, of a log that was deleted, an index."""
        return self.head() == BEGINNING and not any(self._store.scan_iter(_index_key("*"), count=1_000))

    def recall(self, idempotency: Idempotency | None) -> Appended | None:
        """What an earlier, equal request appended. Raises IdempotencyConflictError, NotReplicatedError."""
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
        """Those after a version as they are stored, read page by page."""
        while True:
            page = self.page(subject, after, _HISTORY_PAGE)
            yield from page
            after += len(page)
            if len(page) < _HISTORY_PAGE:
                return

    def page(self, subject: str, after: int, limit: int) -> list[Record]:
        """The next `limit` events (1 or more) of a subject after a version, oldest first. Reads no others."""
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
        """All after a position, by pages. Each is asked for while the one before is worked on."""
        # Any: redis-py publishes no types of a single connection.
        connection: Any = self._store.connection_pool.get_connection()
        try:
            connection.send_command("XRANGE", LOG, f"(0-{after}", "+", "COUNT", limit)
            while entries := connection.read_response():
                connection.send_command("XRANGE", LOG, f"({entries[-1][0].decode()}", "+", "COUNT", limit)
                yield [_record(entry) for entry in entries]
        except BaseException:
            connection.disconnect()  # an answer may still be under way
            raise
        finally:
            self._store.connection_pool.release(connection)

    def at(self, positions: Iterable[int]) -> list[Record]:
        """The events at some positions, in order, as far as they are there."""
        with cast("Any", self._store.pipeline(transaction=False)) as pipe:
            for first, last in _runs(positions):
                pipe.xrange(LOG, f"0-{first}", f"0-{last}")
            return [_record(entry) for entries in pipe.execute() for entry in entries]

    def tail(self, after: int, limit: int, wait_ms: int) -> list[Record]:
        """The same, waiting up to `wait_ms` for the first of them. The connection must wait longer."""
        streams = cast("Any", self._store.xread({LOG: f"0-{after}"}, count=limit, block=wait_ms))
        # RESP3 answers with a map from stream to entries, RESP2 with a list of pairs.
        pairs = streams.items() if isinstance(streams, dict) else streams or ()
        return [_record(entry) for _, entries in pairs for entry in entries]

    def head(self) -> Checkpoint:
        """The last event; the beginning, of an empty ledger."""
        newest = self.newest()
        return _checkpoint(newest) if newest else BEGINNING

    def newest(self) -> Record | None:
        """The last event as it is stored; None of an empty ledger."""
        entries = cast("list[Any]", self._store.xrevrange(LOG, count=1))
        return _record(entries[0]) if entries else None

    def holds(self, checkpoint: Checkpoint) -> bool:
        """Whether the event of a checkpoint is where it was. If not, the ledger went backwards."""
        if checkpoint == BEGINNING:
            return True
        records = self.read(checkpoint.position - 1, 1)
        return bool(records) and _checkpoint(records[0]) == checkpoint

    def credential(self, subject: str) -> str | None:
        """What is kept for the subject apart from the log."""
        value = cast("bytes | None", self._store.get(credential_key(subject)))
        return value.decode() if value is not None else None

    def _run_append(
        self, keys: list[str], arguments: Sequence[bytes | str | int], *, from_reserve: bool
    ) -> list[Any]:
        try:
            return self._run(keys, arguments)
        except OutOfMemoryError:  # met at the first write, so nothing was written
            if not from_reserve:
                raise
            call = (len(keys), *keys, *arguments)
            return cast("list[Any]", self._written("EVAL", _APPEND_FROM_RESERVE, *call))

    def _run(self, keys: list[str], arguments: Sequence[bytes | str | int]) -> list[Any]:
        if not self._ack_replicas:
            # Not by redis-py's Script, which costs a twentieth of an append.
            execute = cast("Any", self._store).execute_command
            call = (len(keys), *keys, *arguments)
            try:
                return cast("list[Any]", execute("EVALSHA", _APPEND_SHA, *call))
            except NoScriptError:  # the store was restarted, and knows it no more
                return cast("list[Any]", execute("EVAL", _APPEND, *call))
        return cast("list[Any]", self._written("EVAL", _APPEND, len(keys), *keys, *arguments))

    def _record_of(self, idempotency: Idempotency, version: int, count: int, subject: str) -> bytes:
        """What is kept of a request: its fingerprint, and which events of which subject it appended."""
        body = f"{idempotency.fingerprint} {version} {count} {subject}".encode()
        return self._code(idempotency, body) + b" " + body

    def _code(self, idempotency: Idempotency, body: bytes) -> bytes:
        if self._mac is None:
            raise ValueError("idempotency needs the secret key")
        return self._mac(idempotency.name.encode(), body)

    def _earlier(self, record: bytes, idempotency: Idempotency) -> Appended | None:
        """What a record says was appended. None for one that we didn't write, or whose events are not there.

        An attacker who can write such a record can also delete one, so ignoring it costs no safety; believing
        it would let a command look done. Raises IdempotencyConflictError, NotReplicatedError.
        """
        code, _, body = record.partition(b" ")
        if not hmac.compare_digest(code, self._code(idempotency, body)):
            _log.warning("idempotency record rejected: it is not one that Keyledger wrote")
            return None
        fingerprint, version, count, subject = body.decode().split(" ", 3)
        if fingerprint != idempotency.fingerprint:
            raise IdempotencyConflictError
        first, last = int(version), int(version) + int(count) - 1
        positions = cast("list[bytes]", self._store.lrange(_index_key(subject), first, last))
        if len(positions) != int(count):
            _log.warning("idempotency record rejected: the ledger lacks its events", subject=subject)
            return None
        if self._ack_replicas:
            # The first answer may have been that replicas lacked it. Replicas get writes in order, so one
            # that has this one has that too.
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
    """Where a reader stands that has done all of these."""
    return _checkpoint(records[-1])


def credential_key(subject: str) -> str:
    """Where a subject's credential lies, which no projection and no export reads."""
    return f"{NAMESPACE}:credential:{subject}"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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
    """The same connections, without redis-py's work on what the store sends of a stream."""
    client = Redis(connection_pool=store.connection_pool)
    for command in ("XRANGE", "XREVRANGE", "XREAD"):
        client.set_response_callback(command, lambda reply, **_: reply)
    return client


def _record(entry: tuple[bytes, list[bytes]]) -> Record:
    entry_id, (_, at, _, body) = entry
    return Record(int(entry_id[2:]), int(at), body)
