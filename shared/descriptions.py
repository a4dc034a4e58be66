"""Events in human words, as the pages and the audit log tell them. Pure."""

from typing import Any, NamedTuple

import msgspec

from shared.events import (
    AccountAdded,
    Fact,
    KeyCreated,
    KeyDetailsChanged,
    KeyRevoked,
    KeyRotated,
    KeyToggled,
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


def describe(fact: Fact) -> Description:
    """The one place to put a new event into words."""
    match fact:
        case KeyCreated():
            return Description("Key created", _set(fact, "name", "description", "scopes", "expires_at"))
        case KeyToggled(enabled=enabled):
            toggled = Change("enabled", not enabled, enabled)
            return Description(
                "Key switched on" if enabled else "Key switched off", (toggled, *_set(fact, "reason"))
            )
        case KeyDetailsChanged():
            return Description("Key changed", (*_changed(fact), *_set(fact, "reason")))
        case KeyRotated(previous_expires_at=ends_at):
            old_secret = Change("old_secret_expires_at", None, ends_at)
            return Description("Key rotated", (*_set(fact, "hint"), old_secret))
        case KeyRevoked():
            return Description("Key revoked", _set(fact, "reason"))
        case AccountAdded():
            return Description("Account added", _set(fact, "role"))
        case _:
            return Description(fact.TYPE, ())


def _set(fact: Fact, *names: str) -> tuple[Change, ...]:
    """The fields that the event gave a value to, where there was none before."""
    values = ((name, getattr(fact, name)) for name in names)
    return tuple(Change(name, None, value) for name, value in values if value not in (None, "", ()))


def _changed(fact: KeyDetailsChanged) -> tuple[Change, ...]:
    """The details that are others than before."""
    before, after = map(msgspec.structs.asdict, (fact.before, fact.after))
    return tuple(Change(name, before[name], after[name]) for name in after if after[name] != before[name])
