"""The dashboard's pages on keys. They only translate: who, what, do it, show."""

import secrets
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flask import Blueprint, redirect, render_template, request, url_for
from marshmallow import ValidationError
from werkzeug.wrappers import Response

from services.keys.commands import Done, fold
from services.keys.domain import Key
from services.keys.moments import parse_moment
from services.keys.schemas import (
    KeyChangeSchema,
    ListQuerySchema,
    NewKeySchema,
    RevocationSchema,
    presented,
)
from services.keys.service import Keys
from shared.descriptions import describe
from shared.events import Event
from shared.identity import KEYS_READ, KEYS_WRITE, Principal
from shared.timestamps import rfc3339
from shared.web.access import attached, idempotency_of, origin, signed_in
from shared.web.app import refuse
from shared.web.problems import field_errors

_PAGE = 50
_GRACES = {0: "no time at all", 3600: "1 hour", 86_400: "1 day", 604_800: "7 days", 2_592_000: "30 days"}

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
        return _form(typed, _by_field(error)), 422
    token = request.form.get("idempotency_key") or secrets.token_urlsafe()
    asked = repr(sorted(typed.items())).encode()
    done = attached(Keys).commands.create(principal, new, origin(), idempotency_of(principal, token, asked))
    return _shown_once(principal, done)


@blueprint.get("/keys/<key_id>")
@signed_in(KEYS_READ)
def key_details(principal: Principal, key_id: str) -> str:
    """One key, with its lifecycle; with `?at=` as it was."""
    if (at := request.args.get("at")) is not None:
        return _past_details(principal, key_id, at)
    events = attached(Keys).commands.history(principal, key_id)
    key = fold(events)
    grace_ends_at = key.previous_expires_at or 0
    return render_template(
        "keys/details.html",
        key=presented(key),
        old_secret_ends_at=grace_ends_at if grace_ends_at > time.time() * 1000 else None,
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


@blueprint.route("/keys/<key_id>/change", methods=["GET", "POST"])
@signed_in(KEYS_WRITE)
def change_key(principal: Principal, key_id: str) -> str | Response | tuple[str, int]:
    """The form of a key's details, and what was typed into it. What was left as it is changes nothing."""
    key = _present(principal, key_id)
    shown = _typed(key)
    typed = {name: request.form.get(name, text).replace("\r\n", "\n") for name, text in shown.items()}
    form = typed | {"reason": request.form.get("reason", "")}
    version = request.form.get("version", key.version, type=int)
    page = partial(render_template, "keys/change.html", key=key, form=form, version=version)
    if request.method == "GET":
        return page(errors={})
    changed = {name: _READ[name](text) for name, text in typed.items() if text != shown[name]}
    if changed:
        try:
            command = KeyChangeSchema().load(changed | {"reason": form["reason"] or None})
        except ValidationError as error:
            return page(errors=_by_field(error)), 422
        attached(Keys).commands.change(principal, key_id, command, origin(), if_version=version)
    return redirect(url_for("keys.key_details", key_id=key_id), 303)


@blueprint.route("/keys/<key_id>/rotate", methods=["GET", "POST"])
@signed_in(KEYS_WRITE)
def rotate_key(principal: Principal, key_id: str) -> str | Response:
    """Asks for how long the old secret stays good, and shows the new one, this once."""
    if request.method == "GET":
        key = _present(principal, key_id)
        token = secrets.token_urlsafe()
        return render_template("keys/rotate.html", key=key, graces=_GRACES, idempotency_key=token)
    grace = request.form.get("grace_seconds", type=int)
    if grace not in _GRACES:
        return refuse(422, "Go back and choose for how long the old secret stays good.")
    token = request.form.get("idempotency_key") or secrets.token_urlsafe()
    asked = idempotency_of(principal, token, str(grace).encode())
    done = attached(Keys).commands.rotate(principal, key_id, grace, origin(), asked)
    return _shown_once(principal, done, rotated=True)


@blueprint.route("/keys/<key_id>/revoke", methods=["GET", "POST"])
@signed_in(KEYS_WRITE)
def revoke_key(principal: Principal, key_id: str) -> str | Response | tuple[str, int]:
    """Asks whether it is meant, and why."""
    page = partial(render_template, "keys/revoke.html", form=request.form)
    if request.method == "GET":
        return page(key=_present(principal, key_id), errors={})
    try:
        query = RevocationSchema().load({"reason": request.form.get("reason") or None})
    except ValidationError as error:
        return page(key=_present(principal, key_id), errors=_by_field(error)), 422
    attached(Keys).commands.revoke(principal, key_id, query["reason"], origin())
    return redirect(url_for("keys.key_details", key_id=key_id), 303)


def _present(principal: Principal, key_id: str) -> Key:
    return fold(attached(Keys).commands.history(principal, key_id))


def _typed(key: Key) -> dict[str, str]:
    """A key's details as the form shows them."""
    return {
        "name": key.name,
        "description": key.description,
        "scopes": "\n".join(key.scopes),
        "expires_at": "" if key.expires_at is None else rfc3339(key.expires_at).removesuffix("Z"),
    }


def _utc(text: str) -> str | None:
    """What a browser's field of date and time gives, which has seconds only where they are not 0."""
    if not text:
        return None
    return f"{text}:00Z" if text.count(":") == 1 else f"{text}Z"


_READ: Mapping[str, Callable[[str], object]] = {
    "name": str,
    "description": str,
    "scopes": str.split,
    "expires_at": _utc,
}


def _by_field(error: ValidationError) -> dict[str, list[str]]:
    """What is wrong with each field; what is wrong with an item of a list, with the list."""
    messages: dict[str, list[str]] = {}
    for row in field_errors(error.messages_dict):
        messages.setdefault(row["field"].partition(".")[0], []).append(row["message"])
    return messages


def _shown_once(principal: Principal, done: Done, *, rotated: bool = False) -> str | Response:
    if done.api_key is None:
        return redirect(url_for("keys.list_keys", after=done.position), 303)
    return render_template(
        "keys/created.html",
        key=presented(done.key),
        api_key=done.api_key.reveal(),
        rotated=rotated,
        **_list(principal, done.position, None),
    )


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
