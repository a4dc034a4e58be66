"""Commands on keys, all of one shape: load with the version, decide, append at the expected version."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

from services.keys.domain import CreateKey, Key, ToggleKey, decide, evolve, subject
from services.keys.key_material import ApiKey, is_key_id, mint
from shared.events import Event, Fact, Request, enveloped
from shared.identity import KEYS_READ, KEYS_WRITE, Principal, authorize, visible
from shared.ledger import Appended, Idempotency, Ledger, VersionConflictError

_ATTEMPTS = 5


class NoSuchKeyError(Exception):
    """There is no such key in the caller's workspace."""


class StaleVersionError(Exception):
    """The key is no longer at the version that the caller saw."""

    def __init__(self, actual: int) -> None:
        super().__init__(f"The key is at version {actual} now.")
        self.actual = actual


@dataclass(frozen=True, kw_only=True)
class NewKey:
    """What a caller says of a key to be made."""

    name: str
    description: str = ""
    scopes: tuple[str, ...] = ()
    expires_at: int | None = None


@dataclass(frozen=True)
class Done:
    """The key after the command, where the ledger holds that, and the token if this made one."""

    key: Key
    position: int
    api_key: ApiKey | None = None


@dataclass(frozen=True)
class KeyCommands:
    """What may be asked of keys. `choose` is `secrets.choice`, `new_id` names an event."""

    ledger: Ledger
    prefix: str
    choose: Callable[[str], str]
    new_id: Callable[[], str]

    def create(
        self, principal: Principal, new: NewKey, request: Request, idempotency: Idempotency | None = None
    ) -> Done:
        """Makes a key. A repeated, equal request gives the same key without its token.

        Raises ForbiddenError, IdempotencyConflictError, redis.RedisError.
        """
        authorize(principal, KEYS_WRITE, granting=new.scopes)
        if earlier := self.ledger.recall(idempotency):
            return self._outcome(earlier)
        api_key = mint(self.prefix, principal.workspace, self.choose)
        command = CreateKey(
            name=new.name,
            description=new.description,
            prefix=api_key.prefix,
            hint=api_key.hint,
            digest=api_key.digest,
            scopes=new.scopes,
            expires_at=new.expires_at,
        )
        facts = decide(command, None)
        appended = self._append(principal, api_key.id, 0, facts, request, idempotency)
        outcome = self._outcome(appended)
        return outcome if appended.repeated else Done(outcome.key, outcome.position, api_key)

    def toggle(
        self,
        principal: Principal,
        key_id: str,
        command: ToggleKey,
        request: Request,
        if_version: int | None = None,
    ) -> Done:
        """Switches a key on or off; if it is so already, nothing happens.

        A change that came in between is no hindrance: the command is decided anew, unless the caller
        asked for one version. Raises ForbiddenError, NoSuchKeyError, StaleVersionError,
        VersionConflictError (after several tries), redis.RedisError.
        """
        authorize(principal, KEYS_WRITE)
        for attempt in range(1, _ATTEMPTS + 1):
            history = self._history(principal, key_id)
            key = fold(history)
            if if_version is not None and if_version != key.version:
                raise StaleVersionError(key.version)
            facts = decide(command, key)
            if not facts:
                return Done(key, history[-1].position)
            try:
                return self._outcome(self._append(principal, key_id, key.version, facts, request))
            except VersionConflictError:
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def history(self, principal: Principal, key_id: str) -> list[Event]:
        """The events of a key, oldest first. Raises ForbiddenError, NoSuchKeyError."""
        authorize(principal, KEYS_READ)
        return self._history(principal, key_id)

    def _history(self, principal: Principal, key_id: str) -> list[Event]:
        events = self.ledger.history(subject(key_id)) if is_key_id(key_id) else []
        if not events or visible(principal, events[0]) is None:
            raise NoSuchKeyError(key_id)
        return events

    def _append(
        self,
        principal: Principal,
        key_id: str,
        version: int,
        facts: Sequence[Fact],
        request: Request,
        idempotency: Idempotency | None = None,
    ) -> Appended:
        events = enveloped(
            facts,
            subject=subject(key_id),
            after_version=version,
            workspace=principal.workspace,
            actor=principal.actor,
            request=request,
            new_id=self.new_id,
        )
        return self.ledger.append(subject(key_id), events, version, idempotency)

    def _outcome(self, appended: Appended) -> Done:
        """The key as the command left it, whatever came after."""
        events = self.ledger.history(appended.subject)
        return Done(fold([e for e in events if e.position <= appended.position]), appended.position)


def fold(events: list[Event]) -> Key:
    """The key that its events make; there is at least one. Raises UnreadableEventError."""
    key: Key | None = reduce(evolve, events, None)
    if key is None:
        raise ValueError("a key without events")
    return key
