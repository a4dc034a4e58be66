"""The verdict on a key at a point in time, and the event that decided it. Pure."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from services.keys.model.point_in_time import KeyAsOf
from services.keys.verification.cache import CachedKey, cached_key_after
from services.keys.verification.verifier import Code, code_at, end_of, end_of_grace
from shared.clock import rfc3339
from shared.eventstore.envelope import Event, actor_name
from shared.eventstore.events import KeyCreated, KeyDetailsChanged, KeyRotated, KeyToggled
from shared.eventstore.payload import Payload
from shared.forensics import Cause, PastKey, PastVerdict

# The last change that mattered to a key that was valid.
_DONE: Mapping[type[Payload], str] = MappingProxyType(
    {
        KeyCreated: "created it",
        KeyToggled: "enabled it",
        KeyRotated: "rotated it",
        KeyDetailsChanged: "changed its scopes or expiry",
    }
)

# The fields that decide a verdict: the last event that set one of them is its cause.
_DECIDED_BY: Mapping[Code, Sequence[str]] = MappingProxyType(
    {
        "REVOKED": ("revoked",),
        "DISABLED": ("enabled",),
        "EXPIRED": ("expires_at",),
        "INSUFFICIENT_SCOPES": ("scopes",),
        "VALID": ("enabled", "digest", "expires_at", "scopes"),
    }
)


def verdict_of(past: KeyAsOf, scopes: Sequence[str]) -> PastVerdict:
    """The verdict on the secret that the key had then. Raises UnreadableEventError."""
    key = cached_key_after(past.key, past.last)
    code = code_at(key, past.at, end_of(key), scopes)
    event = max((past.set_by[field] for field in _DECIDED_BY[code]), key=lambda event: event.version)
    until = _earlier_secret_until(key, past.at)
    also = f" The secret before the last rotation was also valid until {_utc(until)}." if until else ""
    return PastVerdict(
        code=code,
        words=_words(code, event, key, scopes) + also,
        at=past.at,
        key=PastKey(
            id=key.id,
            name=key.name,
            scopes=key.scopes,
            expires_at=key.expires_at,
            enabled=key.enabled,
            revoked=key.revoked,
        ),
        cause=_cause(event),
        earlier_secret_until=until,
    )


def verdict_before(created: Event, at: int) -> PastVerdict:
    """The verdict at a point in time before the key was created."""
    return PastVerdict(
        code="NOT_FOUND",
        words=f"No: it didn't exist yet. {_who(created)} created it at {_utc(created.at)}.",
        at=at,
        key=None,
        cause=_cause(created),
        earlier_secret_until=None,
    )


def _words(code: Code, event: Event, key: CachedKey, scopes: Sequence[str]) -> str:
    who, when = _who(event), _utc(event.at)
    match code:
        case "REVOKED":
            return f"No: {who} revoked it at {when}{_for(event.data)}."
        case "DISABLED":
            return f"No: {who} disabled it at {when}{_for(event.data)}."
        case "EXPIRED":
            return f"No: it had expired at {_utc(key.expires_at or 0)}, as {who} set at {when}."
        case "INSUFFICIENT_SCOPES":
            lacking = ", ".join(scope for scope in scopes if scope not in key.scopes)
            held = ", ".join(key.scopes) or "none"
            return f"No: it lacked {lacking}. Its scopes, by {who} at {when}, were: {held}."
        case _:
            return f"Yes: {who} {_DONE[type(event.data)]} at {when}, and nothing had invalidated it since."


def _for(payload: Payload) -> str:
    reason = getattr(payload, "reason", "")
    return f", for: {reason}" if reason else ""


def _earlier_secret_until(key: CachedKey, at: int) -> int | None:
    until = end_of_grace(key)
    return int(until) if key.previous_digest and code_at(key, at, until, ()) == "VALID" else None


def _cause(event: Event) -> Cause:
    return Cause(
        position=event.position,
        at=event.at,
        type=event.type,
        actor=event.actor.label,
        actor_kind=event.actor.kind,
    )


def _who(event: Event) -> str:
    return actor_name(event.actor.label, event.actor.kind)


def _utc(at: int) -> str:
    """`2026-11-23 18:59:21.123 UTC`: to the ms, since the order of events matters here."""
    return f"{rfc3339(at).replace('T', ' ').removesuffix('Z')} UTC"
