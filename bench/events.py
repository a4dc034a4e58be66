"""Events like those of real keys, for the benchmarks."""

from shared.eventstore.envelope import Actor, NewEvent, Request, enveloped
from shared.eventstore.events import KeyCreated, KeyToggled
from shared.eventstore.payload import Payload

_ACTOR = Actor(kind="key", id="00abcdefghij", label="provisioning")
_REQUEST = Request(id="6f1c2a9be2d14ef0a3c5d7f80912b4c6", ip="192.0.2.17", user_agent="python-requests/2.34")


def event_of(key_id: str, version: int) -> NewEvent:
    """Returns the event that brings a key to a version: created first, then disabled and enabled in turn."""
    if version == 1:
        return event_with(key_id, 1, created(key_id, f"Service {key_id}"))
    return event_with(key_id, version, KeyToggled(enabled=version % 2 == 1, reason=""))


def created(key_id: str, name: str, expires_at: int | None = None) -> Payload:
    return KeyCreated(
        name=name,
        description="",
        prefix="kl",
        hint=f"kl_{key_id[:4]}…x7Qz",
        digest="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        scopes=("orders:read",),
        expires_at=expires_at,
    )


def event_with(key_id: str, version: int, payload: Payload) -> NewEvent:
    """Wraps a payload in the event with which a key reaches a version."""
    return enveloped(
        [payload],
        subject=f"key:{key_id}",
        after_version=version - 1,
        workspace="default",
        actor=_ACTOR,
        request=_REQUEST,
        new_id=lambda: f"{key_id}{version:020d}",
    )[0]
