"""What a key may become: `decide(command, state) -> facts` and `evolve(state, event) -> state`. Pure."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import msgspec
from msgspec import UNSET, UnsetType

from shared.errors import UserFacingError
from shared.eventstore.envelope import ActorKind, Event, UnreadableEventError
from shared.eventstore.events import (
    KeyCreated,
    KeyDetails,
    KeyDetailsChanged,
    KeyRevoked,
    KeyRotated,
    KeyToggled,
)
from shared.eventstore.payload import KEY_SUBJECT, Payload

Status: TypeAlias = Literal["active", "inactive", "expired", "revoked"]
MAX_GRACE_SECONDS = 30 * 24 * 60 * 60
STATUSES: tuple[Status, ...] = get_args(Status)


class Key(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The state of a key, folded from its events; a row of the views is the same. Times are in ms.

    A row is an array without the names of the fields: another order of them is another row.
    """

    id: str
    workspace: str
    name: str
    description: str
    hint: str
    digest: str
    scopes: tuple[str, ...]
    expires_at: int | None
    previous_digest: str | None  # of the secret before the last rotation
    previous_expires_at: int | None  # until when that secret is good
    enabled: bool
    revoked: bool
    created_at: int
    created_position: int  # in the ledger: the order of the lists
    created_by: str
    updated_at: int
    version: int
    created_by_kind: ActorKind

    def status(self, now: int) -> Status:
        """What a person is told; expiry needs no event, so it depends on the time."""
        if self.revoked:
            return "revoked"
        if not self.enabled:
            return "inactive"
        return "expired" if self.has_expired(now) else "active"

    def has_expired(self, now: int) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= now

    @property
    def details(self) -> KeyDetails:
        """What may be changed of it, but for the switch."""
        return KeyDetails(
            name=self.name, description=self.description, scopes=self.scopes, expires_at=self.expires_at
        )


class CreateKey(msgspec.Struct, frozen=True, kw_only=True):
    """Make a key; the material was minted before."""

    name: str
    description: str
    prefix: str
    hint: str
    digest: str
    scopes: tuple[str, ...]
    expires_at: int | None


class ChangeKey(msgspec.Struct, frozen=True, kw_only=True):
    """Change some of a key: enable, disable or rename it. What is not set stays."""

    enabled: bool | UnsetType = UNSET
    name: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    scopes: tuple[str, ...] | UnsetType = UNSET
    expires_at: int | UnsetType | None = UNSET
    reason: str | None = None


class RotateKey(msgspec.Struct, frozen=True, kw_only=True):
    """Give a key a new secret, minted before; the old one stays good until the end of the grace."""

    prefix: str
    hint: str
    digest: str
    now: int
    grace_ends_at: int


class RevokeKey(msgspec.Struct, frozen=True, kw_only=True):
    """End a key for good."""

    reason: str | None = None


Command: TypeAlias = CreateKey | ChangeKey | RotateKey | RevokeKey


class RefusedError(UserFacingError):
    """The key is in a state that doesn't allow this; the message is for the caller."""


class KeyRevokedError(RefusedError):
    """It was revoked."""

    def __init__(self) -> None:
        super().__init__("This key was permanently revoked. Create another.")


class KeyExpiredError(RefusedError):
    """It has expired."""

    def __init__(self) -> None:
        super().__init__("This key has expired. Set a later expires_at first, or create another key.")


def _unexpected(event: Event, key: Key | None) -> UnreadableEventError:
    reason = f"{event.type} of version {event.version} does not follow version {key.version if key else 0}"
    return UnreadableEventError(event.position, event.subject, reason)


def decide(command: Command, key: Key | None) -> Sequence[Payload]:
    """What happens by a command; nothing, if it is so already. Raises RefusedError."""
    match command, key:
        case CreateKey(), None:
            return (KeyCreated(**msgspec.structs.asdict(command)),)
        case RevokeKey(reason=reason), Key(revoked=False):
            return (KeyRevoked(reason=reason or ""),)
        case ((ChangeKey() | RotateKey()), Key(revoked=True)):
            raise KeyRevokedError
        case ChangeKey(), Key():
            return (*_details_changed(command, key), *_toggled(command, key))
        case RotateKey(), Key():
            return (_rotated(command, key),)
        case _:
            return ()


def granted_by(payloads: Sequence[Payload], key: Key) -> Sequence[str]:
    """The scopes that these facts grant: all that the key holds after them, if they make it stronger.

    That is: enabled, given a new secret, a later expiry or another scope. What weakens a key grants none.
    """
    stronger, scopes = False, key.scopes
    for payload in payloads:
        match payload:
            case KeyToggled(enabled=True) | KeyRotated():
                stronger = True
            case KeyDetailsChanged(before=before, after=after):
                stronger |= _expires_later(after, before) or not set(after.scopes) <= set(before.scopes)
                scopes = after.scopes
    return scopes if stronger else ()


def _expires_later(after: KeyDetails, before: KeyDetails) -> bool:
    if before.expires_at is None:
        return False
    return after.expires_at is None or after.expires_at > before.expires_at


def _details_changed(command: ChangeKey, key: Key) -> Sequence[Payload]:
    wanted = {name: getattr(command, name) for name in KeyDetails.__struct_fields__}
    after = msgspec.structs.replace(
        key.details, **{name: value for name, value in wanted.items() if value is not UNSET}
    )
    if after == key.details:
        return ()
    return (KeyDetailsChanged(before=key.details, after=after, reason=command.reason or ""),)


def _toggled(command: ChangeKey, key: Key) -> Sequence[Payload]:
    if command.enabled is UNSET or command.enabled == key.enabled:
        return ()
    return (KeyToggled(enabled=command.enabled, reason=command.reason or ""),)


def _rotated(command: RotateKey, key: Key) -> Payload:
    if key.has_expired(command.now):
        raise KeyExpiredError
    return KeyRotated(
        prefix=command.prefix,
        hint=command.hint,
        digest=command.digest,
        # A rotation never makes the old secret's life longer.
        previous_expires_at=min(command.grace_ends_at, key.expires_at or command.grace_ends_at),
    )


def evolve(key: Key | None, event: Event) -> Key:
    """The key after one more event.

    Raises UnreadableEventError on one that does not follow from the state: nobody may guess then.
    """
    if event.version != (key.version if key else 0) + 1:
        raise _unexpected(event, key)
    match event.data, key:
        case KeyCreated() as payload, None:
            return _created(event, payload)
        case KeyToggled(enabled=enabled), Key(revoked=False):
            return _after(key, event, enabled=enabled)
        case KeyDetailsChanged(after=details), Key(revoked=False):
            return _after(key, event, **msgspec.structs.asdict(details))
        case KeyRotated() as payload, Key(revoked=False):
            return _after(
                key,
                event,
                hint=payload.hint,
                digest=payload.digest,
                previous_digest=key.digest,
                previous_expires_at=payload.previous_expires_at,
            )
        case KeyRevoked(), Key(revoked=False):
            return _after(key, event, revoked=True)
        case _:
            raise _unexpected(event, key)


def _after(key: Key, event: Event, **changes: Any) -> Key:
    return msgspec.structs.replace(key, updated_at=event.at, version=event.version, **changes)


def _created(event: Event, payload: KeyCreated) -> Key:
    return Key(
        id=key_id(event.subject),
        workspace=event.workspace,
        name=payload.name,
        description=payload.description,
        hint=payload.hint,
        digest=payload.digest,
        scopes=payload.scopes,
        expires_at=payload.expires_at,
        previous_digest=None,
        previous_expires_at=None,
        enabled=True,
        revoked=False,
        created_at=event.at,
        created_position=event.position,
        created_by=event.actor.label,
        updated_at=event.at,
        version=event.version,
        created_by_kind=event.actor.kind,
    )


def subject(key_id: str) -> str:
    """The name of a key in the ledger."""
    return KEY_SUBJECT + key_id


def key_id(subject: str) -> str:
    """The inverse."""
    return subject[len(KEY_SUBJECT) :]
