"""The dashboard's pages on keys. They only translate: who, what, do it, show."""

import secrets
from collections.abc import Mapping
from typing import Any

from flask import Blueprint, redirect, render_template, request, url_for
from marshmallow import ValidationError
from werkzeug.wrappers import Response

from services.keys.commands import fold
from services.keys.moments import parse_moment
from services.keys.schemas import KeyChangeSchema, ListQuerySchema, NewKeySchema, presented
from services.keys.service import Keys
from shared.descriptions import describe
from shared.events import Event
from shared.identity import KEYS_READ, KEYS_WRITE, Principal
from shared.web.access import attached, idempotency_of, origin, signed_in

_PAGE = 50

blueprint = Blueprint("keys", __name__, template_folder="templates")


@blueprint.get("/keys")
@signed_in(KEYS_READ)
def list_keys(principal: Principal) -> str:
    """Keys' Details."""
    try:
        query = ListQuerySchema().load(request.args)
    except ValidationError:
        query = ListQuerySchema().load({})
    return render_template("keys/list.html", **_list(principal, query["after"], query["cursor"]))


@blueprint.get("/keys/new")
@signed_in(KEYS_WRITE)
def new_key(_: Principal) -> str:
    """The form of Create API Key."""
    return _form({}, {})


@blueprint.post("/keys/new")
@signed_in(KEYS_WRITE)
def create_key(principal: Principal) -> str | Response | tuple[str, int]:
    """Makes the key and shows it, this once. The same form sent again makes no second key."""
    typed = {name: request.form.get(name, "") for name in ("name", "description")}
    try:
        new = NewKeySchema().load(typed)
    except ValidationError as error:
        return _form(typed, error.messages_dict), 422
    token = request.form.get("idempotency_key") or secrets.token_urlsafe()
    asked = repr(sorted(typed.items())).encode()
    done = attached(Keys).commands.create(principal, new, origin(), idempotency_of(principal, token, asked))
    if done.api_key is None:
        return redirect(url_for("keys.list_keys", after=done.position), 303)
    return render_template(
        "keys/created.html",
        key=presented(done.key),
        api_key=done.api_key.reveal(),
        **_list(principal, done.position, None),
    )


@blueprint.get("/keys/<key_id>")
@signed_in(KEYS_READ)
def key_details(principal: Principal, key_id: str) -> str:
    """One key, with its lifecycle; with `?at=` as it was."""
    if (at := request.args.get("at")) is not None:
        return _past_details(principal, key_id, at)
    events = attached(Keys).commands.history(principal, key_id)
    return render_template(
        "keys/details.html",
        key=presented(fold(events)),
        lifecycle=[_moment(event) for event in reversed(events)],
    )


@blueprint.post("/keys/<key_id>/status")
@signed_in(KEYS_WRITE)
def set_status(principal: Principal, key_id: str) -> Response:
    """The switch."""
    command = KeyChangeSchema().load({"enabled": request.form.get("enabled")})
    done = attached(Keys).commands.change(principal, key_id, command, origin())
    if request.form.get("next") == "details":
        return redirect(url_for("keys.key_details", key_id=key_id), 303)
    return redirect(url_for("keys.list_keys", after=done.position), 303)


def _list(principal: Principal, after: int, cursor: int | None) -> dict[str, Any]:
    keys = attached(Keys)
    behind = not keys.views.wait_for(after)
    page = keys.page(principal, _PAGE, cursor)
    return {"keys": [presented(key) for key in page.keys], "next_cursor": page.next_cursor, "behind": behind}


def _past_details(principal: Principal, key_id: str, at: str) -> str:
    """One key as it was, with the steps to what happened before and after."""
    past = attached(Keys).past(principal, key_id, parse_moment(at))
    return render_template(
        "keys/details.html",
        key=presented(fold(list(past.before)), past.at),
        lifecycle=[_moment(event) for event in reversed([*past.before, *past.after])],
        past=past,
        last=_moment(past.last),
    )


def _moment(event: Event) -> dict[str, Any]:
    """What happened to a key: when, by whom, from where, from what to what."""
    return {
        "at": event.at,
        "actor": event.actor.label,
        "ip": event.request.ip,
        "position": event.position,
        **describe(event.data)._asdict(),
    }


def _form(typed: Mapping[str, str], errors: Mapping[str, Any]) -> str:
    """The form with what was typed, what is wrong with it, and the name of this one request."""
    return render_template(
        "keys/new.html", form=typed, errors=errors, idempotency_key=secrets.token_urlsafe()
    )
