"""Commands on keys."""

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import cached_property, partial, reduce

from services.keys.model.key import (
    ChangeKey,
    Command,
    CreateKey,
    Key,
    RevokeKey,
    RotateKey,
    decide,
    evolve,
    granted_by,
    subject,
)
from services.keys.model.key import key_id as id_of
from services.keys.model.revoked_stub import is_revoked, revoked_stub
from services.keys.model.token import ApiKey, is_key_id, mint, mint_again
from shared.errors import UserFacingError
from shared.eventstore.codec import open_envelope
from shared.eventstore.command_handler import Author, CommandHandler, Handled
from shared.eventstore.envelope import Event, Record, Request, UnreadableEventError
from shared.eventstore.events import KeyDetails, KeyRevoked
from shared.eventstore.ledger import Appended, Ledger, VersionConflictError
from shared.eventstore.payload import Payloads
from shared.identity import KEYS_WRITE, Principal, authorize, visible
from shared.process.command_log import CommandLog, command
from shared.store.idempotency import Idempotency
from shared.text.key_detection import without_keys


class NoSuchKeyError(UserFacingError):
    """There is no such key in the caller's workspace."""

    def __init__(self, key_id: str) -> None:
        super().__init__(
            f"There is no key {without_keys(key_id)} in this workspace. "
            "List the keys with `keyledger key list`."
        )


class StaleVersionError(VersionConflictError):
    """The key isn't at a version that the caller expects."""


@dataclass(frozen=True)
class CommandResult:
    """The key after the command, the position of its last event, and the token if one was generated."""

    key: Key
    position: int
    api_key: ApiKey | None = None


@dataclass(frozen=True)
class KeyCommands:
    """Creates and changes keys. `below` is `secrets.randbelow`, `new_id` names an event, `now` is in ms.

    Methods that change a key raise ForbiddenError, NoSuchKeyError, RefusedError, StaleVersionError,
    VersionConflictError (after several tries), redis.RedisError, and all but `revoke` UnreadableEventError.
    """

    ledger: Ledger
    prefix: str
    below: Callable[[int], int]
    new_id: Callable[[], str]
    now: Callable[[], int]
    log: CommandLog = field(default_factory=CommandLog)

    @command("create_key")
    def create(
        self, principal: Principal, new: KeyDetails, request: Request, idempotency: Idempotency | None = None
    ) -> CommandResult:
        """Creates a key. An identical repeated request returns the same key without its token.

        Raises ForbiddenError, IdempotencyConflictError, redis.RedisError.
        """
        authorize(principal, KEYS_WRITE, granting=new.scopes)
        if earlier := self.ledger.recall(idempotency):
            return self._earlier(principal, earlier)
        api_key = mint(self.prefix, principal.workspace, self.below)
        command = CreateKey(details=new, prefix=api_key.prefix, hint=api_key.hint, digest=api_key.digest)
        handled = self._handler.append(
            subject(api_key.id),
            decide(command, None),
            _author(principal, request),
            idempotency=idempotency,
        )
        return _with_token(_result(handled), api_key)

    @command("change_key")
    def change(
        self,
        principal: Principal,
        key_id: str,
        command: ChangeKey,
        request: Request,
        if_versions: AbstractSet[int] | None = None,
    ) -> CommandResult:
        """Changes what the command sets. If nothing changes, no event is appended.

        Making the key stronger (enabling it, a later expiry, another scope) needs every scope that it then
        holds. If another change comes in between, the command is decided again, unless the caller named the
        versions that it expects.
        """
        authorize(principal, KEYS_WRITE)
        return self._changed(principal, key_id, command, request, if_versions)

    @command("rotate_key")
    def rotate(
        self,
        principal: Principal,
        key_id: str,
        grace_seconds: int,
        request: Request,
        idempotency: Idempotency | None = None,
        if_versions: AbstractSet[int] | None = None,
    ) -> CommandResult:
        """Gives a key a new secret. The old one keeps working for the grace period, earlier ones stop.

        This needs every scope of the key, because the caller gets the secret. An identical repeated request
        returns the same key without its token. Also raises IdempotencyConflictError.
        """
        authorize(principal, KEYS_WRITE)
        if earlier := self.ledger.recall(idempotency):
            return self._earlier(principal, earlier)
        api_key = mint_again(self.prefix, key_id, self.below)
        now = self.now()
        command = RotateKey(
            prefix=api_key.prefix,
            hint=api_key.hint,
            digest=api_key.digest,
            now=now,
            grace_ends_at=now + grace_seconds * 1000,
        )
        result = self._changed(principal, key_id, command, request, if_versions, idempotency)
        return _with_token(result, api_key)

    @command("revoke_key")
    def revoke(
        self,
        principal: Principal,
        key_id: str,
        reason: str | None,
        request: Request,
        if_versions: AbstractSet[int] | None = None,
    ) -> CommandResult:
        """Revokes a key permanently, even if this version can't read its whole history.

        Then the result has only what can be read.
        """
        authorize(principal, KEYS_WRITE)
        try:
            return self._changed(principal, key_id, RevokeKey(reason=reason), request, if_versions)
        except UnreadableEventError:
            payload = KeyRevoked(reason=reason or "")
            return self._revoke_unread(principal, key_id, payload, request, if_versions)

    def _records(self, principal: Principal, name: str) -> Sequence[Record]:
        key_id = id_of(name)
        records = [*self.ledger.records(name)] if is_key_id(key_id) else []
        if not records or visible(principal, open_envelope(records[0])) is None:
            raise NoSuchKeyError(key_id)
        return records

    def _changed(
        self,
        principal: Principal,
        key_id: str,
        command: Command,
        request: Request,
        if_versions: AbstractSet[int] | None,
        idempotency: Idempotency | None = None,
    ) -> CommandResult:
        def decided(key: Key) -> Payloads:
            _check_version(key_id, key.version, if_versions)
            payloads = decide(command, key)
            # What the caller may grant depends on the key's state.
            authorize(principal, KEYS_WRITE, granting=granted_by(payloads, key))
            return payloads

        return _result(
            self._handler.handle(
                subject(key_id),
                decided,
                _author(principal, request),
                load=partial(self._records, principal),
                idempotency=idempotency,
            )
        )

    def _revoke_unread(
        self,
        principal: Principal,
        key_id: str,
        payload: KeyRevoked,
        request: Request,
        if_versions: AbstractSet[int] | None,
    ) -> CommandResult:
        name = subject(key_id)
        records = self._records(principal, name)
        _check_version(key_id, len(records), if_versions)
        if not any(map(is_revoked, records)):
            version = len(records)
            events = self._handler.enveloped(name, version, [payload], _author(principal, request))
            self.ledger.append(name, events, version)
            records = self._records(principal, name)
        return CommandResult(revoked_stub(records), records[-1].position)

    def _earlier(self, principal: Principal, appended: Appended) -> CommandResult:
        self._records(principal, appended.subject)
        return _result(self._handler.outcome(appended))

    @cached_property
    def _handler(self) -> CommandHandler[Key]:
        return CommandHandler(self.ledger, self.new_id, evolve)


def _author(principal: Principal, request: Request) -> Author:
    return Author(principal.workspace, principal.actor, request)


def _result(handled: Handled[Key]) -> CommandResult:
    return CommandResult(handled.state, handled.position)


def _with_token(result: CommandResult, api_key: ApiKey) -> CommandResult:
    """Adds the token, unless an identical request was first and the key has the token of that one."""
    return replace(result, api_key=api_key if result.key.digest == api_key.digest else None)


def _check_version(key_id: str, version: int, expected: AbstractSet[int] | None) -> None:
    if expected is not None and version not in expected:
        raise StaleVersionError(subject(key_id), " or ".join(map(str, sorted(expected))), version)


def fold(events: Iterable[Event], key: Key | None = None) -> Key:
    """The key after more events, or after all of its events. Raises UnreadableEventError."""
    key = reduce(evolve, events, key)
    if key is None:
        raise ValueError("a key without events")
    return key
