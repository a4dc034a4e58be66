"""Events in human words, as the pages and the audit log tell them. Pure."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from shared.eventstore.events import (
    AccessDenied,
    AccountAdded,
    AccountDisabled,
    AccountEnabled,
    AccountRoleChanged,
    AuditChecked,
    AuditExported,
    KeyCreated,
    KeyDetailsChanged,
    KeyRevoked,
    KeyRotated,
    KeyToggled,
    PasswordChanged,
    Payload,
    SignedIn,
    SignedOutEverywhere,
    SignInFailed,
)


class Change(NamedTuple):
    """What an event changed, for people. `before` is None where there was nothing before."""

    field: str
    before: Any
    after: Any


class Description(NamedTuple):
    """An event in human words."""

    title: str
    changes: tuple[Change, ...]


# The title of each event, and the fields that it sets; what changed from one thing to another is told below.
_WORDS: Mapping[type[Payload], tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        KeyCreated: ("Key created", ("name", "description", "scopes", "expires_at")),
        KeyToggled: ("Key switched off", ("reason",)),
        KeyDetailsChanged: ("Key changed", ("reason",)),
        KeyRotated: ("Key rotated", ("hint",)),
        KeyRevoked: ("Key revoked", ("reason",)),
        AccountAdded: ("Account added", ("role",)),
        AccountRoleChanged: ("Role changed", ()),
        AccountDisabled: ("Account disabled", ("reason",)),
        AccountEnabled: ("Account enabled", ()),
        PasswordChanged: ("Password changed", ()),
        SignedOutEverywhere: ("Signed out everywhere", ()),
        SignedIn: ("Signed in", ()),
        SignInFailed: ("Sign-in failed", ("attempts",)),
        AccessDenied: ("Access denied", ("scope", "attempts")),
        AuditExported: ("Audit log exported", ("format",)),
        AuditChecked: ("Audit log found sound", ("entries", "checkpoints")),
    }
)


_PLAIN_QUOTES = str.maketrans("‹›", "<>")


def actor_name(label: str, kind: str | None) -> str:
    """Who did it, for people: a person's e-mail address as it is, anyone else with the kind, `key ‹ci›`.

    So nobody passes for a person, whatever a key is called: its name can't end the quotes.
    """
    return label if kind == "account" else f"{kind or 'unknown'} ‹{label.translate(_PLAIN_QUOTES)}›"


def describe(payload: Payload) -> Description:
    """The one place to put a new event into words."""
    title, names = _WORDS.get(type(payload), (payload.TYPE, ()))
    was_set = _set(payload, *names)
    match payload:
        case KeyToggled(enabled=enabled):
            title = "Key switched on" if enabled else title
            return Description(title, (Change("enabled", not enabled, enabled), *was_set))
        case KeyDetailsChanged():
            return Description(title, (*_changed(payload), *was_set))
        case KeyRotated(previous_expires_at=ends_at):
            return Description(title, (*was_set, Change("old_secret_expires_at", None, ends_at)))
        case AccountRoleChanged(before=before, after=after):
            return Description(title, (Change("role", before, after),))
        case AuditExported(filters=filters):
            return Description(title, (*was_set, *(Change(name, None, filters[name]) for name in filters)))
        case AuditChecked(findings=findings) if findings:
            faults = tuple(f"{found.kind} ({found.count}) at {found.position}" for found in findings)
            return Description("Audit log found NOT sound", (*was_set, Change("findings", None, faults)))
        case _:
            return Description(title, was_set)


def _set(payload: Payload, *names: str) -> tuple[Change, ...]:
    """The fields that the event gave a value to, where there was none before."""
    values = ((name, getattr(payload, name)) for name in names)
    return tuple(Change(name, None, value) for name, value in values if value not in (None, "", ()))


def _changed(payload: KeyDetailsChanged) -> tuple[Change, ...]:
    """The details that are others than before."""
    before, after = map(msgspec.structs.asdict, (payload.before, payload.after))
    return tuple(Change(name, before[name], after[name]) for name in after if after[name] != before[name])
