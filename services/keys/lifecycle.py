"""A key's events in the words of its details page. Pure."""

from collections.abc import Sequence
from typing import Any

from shared.events import Event, KeyCreated, KeyToggled


def lifecycle(events: Sequence[Event]) -> list[dict[str, Any]]:
    """What happened to a key, newest first: when, by whom, from where, from what to what."""
    return [_step(event) for event in reversed(events)]


def _step(event: Event) -> dict[str, Any]:
    return {
        "at": event.at,
        "actor": event.actor.label,
        "ip": event.request.ip,
        "position": event.position,
        **_words(event.data),
    }


def _words(fact: object) -> dict[str, Any]:
    match fact:
        case KeyCreated():
            return {"title": "Created", "reason": None, "changes": []}
        case KeyToggled():
            before, after = ("Inactive", "Active") if fact.enabled else ("Active", "Inactive")
            return {
                "title": "Switched on" if fact.enabled else "Switched off",
                "reason": fact.reason,
                "changes": [{"field": "Status", "before": before, "after": after}],
            }
        case _:
            return {"title": type(fact).__name__, "reason": None, "changes": []}
