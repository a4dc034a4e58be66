"""The data that the pages show: the list of keys, and the details of one key now or in the past."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

from flask import request, url_for
from marshmallow import ValidationError

from services.keys.model.key import STATUSES, subject
from services.keys.queries import Keys
from services.keys.read_model.criteria import NEWEST_FIRST
from services.keys.verification.usage import Usage
from services.keys.verification.usage_chart import DAYS, chart
from services.keys.web.schemas import ListQuerySchema, presented
from shared.clock import typed_in_utc
from shared.eventstore.envelope import Event, actor_name
from shared.eventstore.point_in_time import parse_point_in_time
from shared.identity import Principal
from shared.web.access import attached

_PAGE = 50  # keys
_LIFECYCLE_PAGE = 20  # events
_CHOICES = {"search": "", "status": "", "sort": NEWEST_FIRST}


def listed(principal: Principal, asked: Mapping[str, str]) -> dict[str, Any]:
    """A page of the list; the first page of all keys if the query isn't valid."""
    try:
        query = ListQuerySchema().load(dict(asked))
    except ValidationError:
        query, asked = ListQuerySchema().load({}), {}
    keys, criteria = attached(Keys), query["criteria"]
    behind = not keys.views.wait_for(query["after"])
    page = keys.page(principal, _PAGE, query["cursor"], criteria)
    choices = chosen(asked)
    return {
        "keys": [presented(key) for key in page.keys],
        "last_used": attached(Usage).last_used([key.id for key in page.keys]),
        "behind": behind,
        "search": criteria.search,
        "status": criteria.status,
        "sort": criteria.sort,
        "narrowed": criteria.search or criteria.status,
        "statuses": STATUSES,
        "cursor": asked.get("cursor"),
        "next_cursor": page.next_cursor,
        "list_query": urlencode(choices | _given(asked, "cursor")),
        "list_url": lambda **changes: url_for("keys.list_keys", **choices | changes),
    }


def chosen(asked: Mapping[str, str]) -> dict[str, Any]:
    """The parts of a query that differ from the default list of all keys, newest first."""
    return {name: value for name, value in _given(asked, *_CHOICES).items() if value != _CHOICES[name]}


def place_of(query: str) -> dict[str, Any]:
    """The page of the list that a `list_query` names."""
    return _given(dict(parse_qsl(query)), *_CHOICES, "cursor")


def details(principal: Principal, key_id: str) -> dict[str, Any]:
    """One key now, with its lifecycle and usage. Raises NoSuchKeyError."""
    keys = attached(Keys)
    key, now = keys.present(principal, key_id), keys.commands.now()
    grace_ends_at = key.previous_expires_at or 0
    return {
        "key": presented(key, now),
        "old_secret_ends_at": grace_ends_at if grace_ends_at > now else None,
        "lifecycle": _lifecycle(principal, key_id, key.version),
        "use": chart(attached(Usage).read(key_id, DAYS, now), now),
    }


def past_details(principal: Principal, key_id: str, at: str) -> dict[str, Any]:
    """One key at a point in time in UTC, with links to the events before and after.

    Raises PointInTimeError, NotYetCreatedError, NoSuchKeyError.
    """
    past = attached(Keys).past(principal, key_id, parse_point_in_time(typed_in_utc(at)))
    return {
        "key": presented(past.key, past.at),
        "lifecycle": _lifecycle(principal, key_id, past.key.version + _LIFECYCLE_PAGE // 2),
        "past": past,
        "last": event_row(past.last),
    }


def _lifecycle(principal: Principal, key_id: str, newest: int) -> dict[str, Any]:
    """A page of a key's events, newest first: from version `newest`, or before the one that the URL names.

    `older` and `newer` are the versions that the neighbouring pages come before, or None.
    """
    keys = attached(Keys)
    version = keys.commands.ledger.version(subject(key_id))
    end = min(max(1, request.args.get("before", newest + 1, type=int) - 1), version)
    start = max(end - _LIFECYCLE_PAGE, 0)
    events = keys.history(principal, key_id, start, end - start).events
    return {
        "events": [event_row(event) for event in reversed(events)],
        "older": start + 1 if start else None,
        "newer": min(end + _LIFECYCLE_PAGE, version) + 1 if end < version else None,
    }


def event_row(event: Event) -> dict[str, Any]:
    """An event of a key's lifecycle: when it happened, who caused it, from where, and what changed."""
    return {
        "at": event.at,
        "actor": actor_name(event.actor.label, event.actor.kind),
        "ip": event.request.ip,
        "position": event.position,
        **event.data.describe()._asdict(),
    }


def _given(asked: Mapping[str, str], *names: str) -> dict[str, Any]:
    return {name: asked[name] for name in names if asked.get(name)}
