"""Aggregates failed sign-ins and denied calls, which could flood the ledger: it's never trimmed.

Each is counted in the store. One event per minute records the count of each account, IP address, or caller
and scope. The event is appended before its count is subtracted: if a process dies between the two, the next
event includes the count again, and none is lost. An attacker can have any number of IP addresses: of those
that try unknown accounts, up to 100 per minute get their own event, and all others share one.
"""

import hashlib
from collections.abc import Iterator, Sequence
from threading import Event as Stop
from typing import Any, cast

import msgspec
import structlog
from redis import Redis, RedisError

from services.accounts.login_throttle import network
from shared.errors import InvalidFieldError
from shared.eventstore.codec import open_envelope
from shared.eventstore.command_handler import Journal
from shared.eventstore.envelope import Actor, Request, UnreadableEventError
from shared.eventstore.events import AccessDenied, SignInFailed
from shared.eventstore.ledger import NAMESPACE, NotReplicatedError, VersionConflictError
from shared.eventstore.payload import ACCESS_SUBJECT, ACCOUNT_SUBJECT, ADDRESS_SUBJECT, SIGN_IN_SUBJECT
from shared.identity import Principal
from shared.process.periodic import run_periodically
from shared.store.connections import StoreError
from shared.text.key_detection import without_keys

_OPERATORS_WORKSPACE = "default"
_EVERY_S = 60
_LOOK_EVERY_S = 1.0
_PAGE = 500
_COUNTS = f"{NAMESPACE}:incidents:counts"
_LAST = f"{NAMESPACE}:incidents:last"
_ADDRESSES = f"{NAMESPACE}:incidents:addresses"
_MAX_ADDRESSES = 100  # per minute that get their own event
_OTHERS = "others"
_log = structlog.get_logger(__name__)

# Subtracts a recorded number from a count, and deletes the count if nothing is left.
# KEYS  1 the counts  2 the last event of each
# ARGV  1 the name of the count  2 the recorded number
_SUBTRACT = """
if redis.call('HINCRBY', KEYS[1], ARGV[1], -ARGV[2]) <= 0 then
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('HDEL', KEYS[2], ARGV[1])
end
"""


# Whether an address is one of the first of this minute. KEYS  1 those  ARGV  1 the address  2 how many  3 s
_IS_AMONG_FIRST = """
if redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 1 then return 1 end
local count = redis.call('SCARD', KEYS[1])
if count >= tonumber(ARGV[2]) then return 0 end
redis.call('SADD', KEYS[1], ARGV[1])
if count == 0 then redis.call('EXPIRE', KEYS[1], ARGV[3]) end
return 1
"""


class _SecurityEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The last of the events that are counted together."""

    subject: str
    workspace: str | None  # None: that of the account
    scope: str | None  # None: of a sign-in
    actor: Actor
    request: Request


# Errors after which a later attempt can succeed.
WAITING = (RedisError, StoreError, NotReplicatedError, VersionConflictError)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_SecurityEvent).decode


def sign_in_subject(account: str) -> str:
    """The subject of the sign-ins to an account, which is given by its own subject."""
    return SIGN_IN_SUBJECT + account.removeprefix(ACCOUNT_SUBJECT)


class SecurityEventAggregator:
    """Counts security events, and records the counts."""

    def __init__(self, store: Redis, journal: Journal) -> None:
        self._store = store
        self._journal = journal
        self._subtract = store.register_script(_SUBTRACT)
        self._is_among_first = store.register_script(_IS_AMONG_FIRST)

    def sign_in_failed(self, account: str | None, request: Request) -> None:
        """Counts a failed sign-in to an account, which is given by its subject, or to an unknown one (None).

        Raises redis.RedisError.
        """
        address = network(request.ip)
        known = account is not None
        # Checked for known accounts too, so that both take the same time.
        if not self._is_among_first([_ADDRESSES], [address, _MAX_ADDRESSES, _EVERY_S]) and not known:
            address = _OTHERS
        subject = sign_in_subject(account) if account is not None else ADDRESS_SUBJECT + address
        event = _SecurityEvent(
            subject=subject,
            workspace=None if known else _OPERATORS_WORKSPACE,
            scope=None,
            actor=Actor(kind="anonymous", id=address, label=address),
            request=request,
        )
        self._count(event)

    def access_denied(self, principal: Principal, scope: str, request: Request) -> None:
        """Counts a denied call. Store errors are only logged, so that the caller still gets the denial."""
        event = _SecurityEvent(
            subject=f"{ACCESS_SUBJECT}{principal.kind}:{principal.id}",
            workspace=principal.workspace,
            scope=without_keys(scope),
            actor=principal.actor,
            request=request,
        )
        try:
            self._count(event)
        except (RedisError, StoreError) as error:
            _log.warning("a denied call is not recorded", error=str(error), request_id=request.id)

    def run(self, stop: Stop) -> None:
        """Records events until `stop` is set."""
        run_periodically(
            "record security events", self.record_due, stop, every_s=_LOOK_EVERY_S, retry_on=WAITING
        )

    def record_due(self) -> None:
        """Appends an event for each count that had none for a minute. Raises the errors in WAITING."""
        for names in self._pages():
            for name, free in zip(names, self._claimed(names), strict=True):
                if free:
                    self._record_count(name)

    def _count(self, event: _SecurityEvent) -> None:
        name = f"{event.subject} {event.scope or ''}"
        with self._store.pipeline() as commands:
            commands.hincrby(_COUNTS, name, 1)
            commands.hset(_LAST, name, cast("Any", _encode(event)))
            commands.execute()

    def _pages(self) -> Iterator[Sequence[bytes]]:
        """The names of all counts. A scan can return one twice; only one of the two can be claimed."""
        cursor = 0
        while True:
            reply = self._store.hscan(_COUNTS, cursor, count=_PAGE)
            cursor, counts = cast("tuple[int, dict[bytes, bytes]]", reply)
            yield [*counts]
            if cursor == 0:
                return

    def _claimed(self, names: Sequence[bytes]) -> Sequence[bool]:
        """For each count, whether this process may record it now."""
        with self._store.pipeline(transaction=False) as commands:
            for name in names:
                claim = f"{NAMESPACE}:incidents:told:{hashlib.sha256(name).hexdigest()}"
                commands.set(claim, 1, nx=True, ex=_EVERY_S)
            return [bool(done) for done in commands.execute()]

    def _record_count(self, name: bytes) -> None:
        with self._store.pipeline() as commands:
            commands.hget(_COUNTS, cast("Any", name))
            commands.hget(_LAST, cast("Any", name))
            count, body = commands.execute()
        if not count or not body:
            return
        try:
            event, attempts = _decode(body), int(count)
        except msgspec.MsgspecError:
            return  # written by another version of the code, which will record it
        try:
            self._append(event, attempts)
        except InvalidFieldError as error:
            _log.error("failed sign-ins or denials cannot be recorded", error=str(error))
        self._subtract([_COUNTS, _LAST], [cast("Any", name), attempts])

    def _append(self, event: _SecurityEvent, attempts: int) -> None:
        self._journal.record(
            SignInFailed(attempts=attempts)
            if event.scope is None
            else AccessDenied(scope=event.scope, attempts=attempts),
            subject=event.subject,
            workspace=event.workspace or self._workspace(event.subject),
            actor=event.actor,
            request=event.request,
        )

    def _workspace(self, subject: str) -> str:
        """The workspace of the account that the sign-ins were for."""
        account = ACCOUNT_SUBJECT + subject.removeprefix(SIGN_IN_SUBJECT)
        first = next(self._journal.ledger.records(account), None)
        try:
            return open_envelope(first).workspace if first else _OPERATORS_WORKSPACE
        except UnreadableEventError:
            return _OPERATORS_WORKSPACE
