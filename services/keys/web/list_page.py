"""What Keys' Details shows for an address, and the addresses that it leads to."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

from flask import url_for
from marshmallow import ValidationError

from services.keys.model.key import STATUSES
from services.keys.queries import Keys
from services.keys.read_model.criteria import NEWEST_FIRST
from services.keys.verification.usage import Usage
from services.keys.web.schemas import ListQuerySchema, presented
from shared.identity import Principal
from shared.web.access import attached

_PAGE = 50
_CHOICES = {"search": "", "status": "", "sort": NEWEST_FIRST}


def listed(principal: Principal, asked: Mapping[str, str]) -> dict[str, Any]:
    """A page of the list; of what cannot be asked for, the first of all."""
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
    """What makes a list another than that of all keys, newest first."""
    return {name: value for name, value in _given(asked, *_CHOICES).items() if value != _CHOICES[name]}


def place_of(query: str) -> dict[str, Any]:
    """The page of the list that a `list_query` names."""
    return _given(dict(parse_qsl(query)), *_CHOICES, "cursor")


def _given(asked: Mapping[str, str], *names: str) -> dict[str, Any]:
    return {name: asked[name] for name in names if asked.get(name)}
