"""The rules of a key: `decide(command, state) -> payloads` and `evolve(state, event) -> state`. Pure."""

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


class Key(KeyDetails, frozen=True, kw_only=True, array_like=True):
    """The state of a key, folded from its events. Times are in ms.

    A row of the views is this as an array without the names of the fields, so their order matters.
    """

    id: str
    workspace: str
    hint: str
    digest: str
    previous_digest: str | None  # of the secret before the last rotation
    previous_expires_at: int | None  # until when that secret is valid
    enabled: bool
    revoked: bool
    created_at: int
    created_position: int  # in the ledger: the order of the lists
    created_by: str
    updated_at: int
    version: int
    created_by_kind: ActorKind

    def status(self, now: int) -> Status:
        """The status at a time. Expiry has no event of its own, so it depends on the time."""
        if self.revoked:
            return "revoked"
        if not self.enabled:
            return "inactive"
        return "expired" if self.has_expired(now) else "active"

    def has_expired(self, now: int) -> bool:
        return self.expires_at is not None and self.expires_at <= now

    @property
    def details(self) -> KeyDetails:
        return KeyDetails(**{name: getattr(self, name) for name in KeyDetails.__struct_fields__})


class CreateKey(msgspec.Struct, frozen=True, kw_only=True):
    """Create a key whose secret was generated before."""

    details: KeyDetails
    prefix: str
    hint: str
    digest: str


class ChangeKey(msgspec.Struct, frozen=True, kw_only=True):
    """Enable or disable a key, or change the details that are given by name."""

    enabled: bool | UnsetType = UNSET
    details: dict[str, Any] = msgspec.field(default_factory=dict)
    reason: str | None = None


class RotateKey(msgspec.Struct, frozen=True, kw_only=True):
    """Give a key a new secret, generated before. The old one stays valid until `grace_ends_at`."""

    prefix: str
    hint: str
    digest: str
    now: int
    grace_ends_at: int


class RevokeKey(msgspec.Struct, frozen=True, kw_only=True):
    """Revoke a key permanently."""

    reason: str | None = None


Command: TypeAlias = CreateKey | ChangeKey | RotateKey | RevokeKey


class RefusedError(UserFacingError):
    """The key is in a state that doesn't allow this; the message is for the caller."""


class KeyRevokedError(RefusedError):
    def __init__(self) -> None:
        super().__init__("This key was permanently revoked. Create another.")


class KeyExpiredError(RefusedError):
    def __init__(self) -> None:
        super().__init__("This key has expired. Set a later expires_at first, or create another key.")


def _unexpected(event: Event, key: Key | None) -> UnreadableEventError:
    reason = f"{event.type} of version {event.version} does not follow version {key.version if key else 0}"
    return UnreadableEventError(event.position, event.subject, reason)


def decide(command: Command, key: Key | None) -> Sequence[Payload]:
    """The events of a command; none if it changes nothing. Raises RefusedError."""
    match command, key:
        case CreateKey(), None:
            details = msgspec.structs.asdict(command.details)
            return (KeyCreated(**details, prefix=command.prefix, hint=command.hint, digest=command.digest),)
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
    """The scopes that these payloads grant: all that the key holds after them if they make it stronger.

    Enabling a key, a new secret, a later expiry or another scope makes it stronger.
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
    before = key.details
    after = msgspec.structs.replace(before, **command.details)
    if after == before:
        return ()
    return (KeyDetailsChanged(before=before, after=after, reason=command.reason or ""),)


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

    Raises UnreadableEventError if the event doesn't follow from the state.
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
        **{name: getattr(payload, name) for name in KeyDetails.__struct_fields__},
        id=key_id(event.subject),
        workspace=event.workspace,
        hint=payload.hint,
        digest=payload.digest,
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
    """The subject of a key's events."""
    return KEY_SUBJECT + key_id


def key_id(subject: str) -> str:
    """The inverse."""
    return subject[len(KEY_SUBJECT) :]
