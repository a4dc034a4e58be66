"""What a key may become: `decide(command, state) -> facts` and `evolve(state, event) -> state`. Pure."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

from shared.events import KEY_SUBJECT, Event, Fact, KeyCreated, KeyToggled, UnreadableEventError

Status: TypeAlias = Literal["active", "inactive", "expired"]


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a key, folded from its events; a row of the views is the same. Times are in ms."""

    id: str
    workspace: str
    name: str
    description: str
    hint: str
    digest: str
    scopes: tuple[str, ...]
    expires_at: int | None
    enabled: bool
    created_at: int
    created_position: int  # in the ledger: the order of the lists
    created_by: str
    updated_at: int
    version: int

    def status(self, now: int) -> Status:
        """What a person is told; expiry needs no event, so it depends on the time."""
        if self.expires_at is not None and self.expires_at <= now:
            return "expired"
        return "active" if self.enabled else "inactive"


class CreateKey(msgspec.Struct, frozen=True, kw_only=True):
    """Make a key; the material was minted before."""

    name: str
    description: str
    prefix: str
    hint: str
    digest: str
    scopes: tuple[str, ...]
    expires_at: int | None


class ToggleKey(msgspec.Struct, frozen=True, kw_only=True):
    """Switch a key on or off."""

    enabled: bool
    reason: str | None = None


Command: TypeAlias = CreateKey | ToggleKey


def _unexpected(event: Event, key: Key | None) -> UnreadableEventError:
    reason = f"{event.type} of version {event.version} does not follow version {key.version if key else 0}"
    return UnreadableEventError(event.position, event.subject, reason)


def decide(command: Command, key: Key | None) -> Sequence[Fact]:
    """What happens by a command; nothing, if it is so already."""
    match command:
        case CreateKey():
            return (KeyCreated(**msgspec.structs.asdict(command)),)
        case ToggleKey():
            if key is None or key.enabled == command.enabled:
                return ()
            return (KeyToggled(enabled=command.enabled, reason=command.reason or ""),)


def evolve(key: Key | None, event: Event) -> Key:
    """The key after one more event.

    Raises UnreadableEventError on one that does not follow from the state: nobody may guess then.
    """
    if event.version != (key.version if key else 0) + 1:
        raise _unexpected(event, key)
    match event.data, key:
        case KeyCreated() as fact, None:
            return _created(event, fact)
        case KeyToggled() as fact, Key():
            return msgspec.structs.replace(
                key, enabled=fact.enabled, updated_at=event.at, version=event.version
            )
        case _:
            raise _unexpected(event, key)


def _created(event: Event, fact: KeyCreated) -> Key:
    return Key(
        id=key_id(event.subject),
        workspace=event.workspace,
        name=fact.name,
        description=fact.description,
        hint=fact.hint,
        digest=fact.digest,
        scopes=fact.scopes,
        expires_at=fact.expires_at,
        enabled=True,
        created_at=event.at,
        created_position=event.position,
        created_by=event.actor.label,
        updated_at=event.at,
        version=event.version,
    )


def subject(key_id: str) -> str:
    """The name of a key in the ledger."""
    return KEY_SUBJECT + key_id


def key_id(subject: str) -> str:
    """The inverse."""
    return subject[len(KEY_SUBJECT) :]
