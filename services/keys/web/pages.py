"""The dashboard's pages on keys. They only translate: who, what, do it, show."""

import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from marshmallow import ValidationError
from werkzeug.wrappers import Response

from services.keys.commands import CommandResult, NoSuchKeyError, StaleVersionError, fold
from services.keys.model.key import Key, subject
from services.keys.model.point_in_time import NotYetCreatedError
from services.keys.model.token import MalformedKeyError, parse
from services.keys.queries import Keys
from services.keys.verification.usage import Usage
from services.keys.verification.usage_chart import DAYS, chart
from services.keys.web.forms import read, rules, texts_of, typed_in
from services.keys.web.list_page import chosen, listed, place_of
from services.keys.web.schemas import KeyChangeSchema, NewKeySchema, RevocationSchema, presented
from shared.clock import date_utc, typed_in_utc
from shared.eventstore.descriptions import actor_name, describe
from shared.eventstore.events import Event
from shared.eventstore.ledger import Idempotency, IdempotencyConflictError
from shared.eventstore.point_in_time import PointInTimeError, parse_point_in_time
from shared.identity import KEYS_READ, KEYS_WRITE, ForbiddenError, Principal
from shared.text.characters import escaped
from shared.text.key_detection import resembles_key
from shared.web.access import Access, attached, idempotency_of, origin, signed_in
from shared.web.schemas import field_errors

_GRACES = {0: "no time at all", 3600: "1 hour", 86_400: "1 day", 604_800: "7 days", 2_592_000: "30 days"}
_LIFECYCLE_PAGE = 20  # events
_MADE_ALREADY = (
    "This form has made a key already, and it said something else then. "
    "To make another key as it stands here, press Create again."
)
_ROTATED_ALREADY = (
    "This form has rotated the key already, with another choice. To rotate it once more, press Rotate again."
)
_CHANGED_MEANWHILE = (
    "Somebody else changed this key while you were typing. What you typed is kept, on top of their change: "
    "look at it and save again."
)
_SHOWN_ALREADY = "“{}” has its key already, which was shown once. If nobody copied it, rotate the key."

blueprint = Blueprint("keys", __name__, template_folder="templates")


@blueprint.get("/keys")
@signed_in(KEYS_READ)
def list_keys(principal: Principal) -> str:
    """Keys' Details."""
    return render_template("keys/list.html", **listed(principal, request.args))


@blueprint.post("/keys/search")
@signed_in(KEYS_READ)
def find_keys(principal: Principal) -> Response | tuple[str, int]:
    """Leads to what was sought. Of a pasted key nothing but its id comes into an address."""
    sought, query = request.form.get("search", "").strip(), chosen(request.form)
    if not resembles_key(sought):
        return redirect(url_for("keys.list_keys", **query), 303)
    try:
        key_id = parse(sought).id
        attached(Keys).check_known(principal, key_id)
    except MalformedKeyError:
        error = (
            "This looks like an API key that was mistyped or cut off. Copy the whole key and paste it again."
        )
    except NoSuchKeyError:
        error = "This is no key of your workspace."
    else:
        return redirect(url_for("keys.key_details", key_id=key_id), 303)
    query.pop("search")
    return render_template("keys/list.html", search_error=error, **listed(principal, query)), 422


@blueprint.get("/keys/new")
@signed_in(KEYS_WRITE)
def new_key(_: Principal) -> str:
    """The form of Create API Key."""
    return _form({}, {})


@blueprint.post("/keys/new")
@signed_in(KEYS_WRITE)
def create_key(principal: Principal) -> str | Response | tuple[str, int]:
    """Makes the key and shows it, this once. The same form sent again makes no second key."""
    typed = typed_in(request.form)
    try:
        new = NewKeySchema().load(read(typed))
        asked = _asked(principal, repr(sorted(typed.items())))
        done = attached(Keys).commands.create(principal, new, origin(), asked)
    except ValidationError as error:
        return _form(typed, _by_field(error)), 422
    except ForbiddenError as error:
        return _form(typed, {"scopes": [_not_held(error)]}), 403
    except IdempotencyConflictError:
        return _form(typed, {"form": [_MADE_ALREADY]}), 422
    return _shown_once(principal, done)


@blueprint.get("/keys/<key_id>")
@signed_in(KEYS_READ)
def key_details(principal: Principal, key_id: str) -> str | tuple[str, int]:
    """One key, with its lifecycle; with `?at=` as it was."""
    at = request.args.get("at", "")
    if not at:
        return _details(principal, key_id)
    try:
        return _past_details(principal, key_id, at)
    except PointInTimeError as error:
        return _details(principal, key_id, [str(error)]), 422
    except NotYetCreatedError as error:
        created = f"The key was created at {date_utc(error.created.at)}. Ask for that moment or a later one."
        return _details(principal, key_id, [created]), 404


@blueprint.post("/keys/<key_id>/status")
@signed_in(KEYS_WRITE)
def set_status(principal: Principal, key_id: str) -> str | Response | tuple[str, int]:
    """The switch. Before a key is switched off, a page asks, unless somebody was asked already."""
    reason = request.form.get("reason")
    if request.form.get("enabled") == "false" and reason is None:
        return _switching_off(principal, key_id, {})
    try:
        command = KeyChangeSchema().load({"enabled": request.form.get("enabled"), "reason": reason or None})
    except ValidationError as error:
        return _switching_off(principal, key_id, _by_field(error)), 422
    done = attached(Keys).commands.change(principal, key_id, command, origin())
    return redirect(_back(key_id, after=done.position), 303)


@blueprint.route("/keys/<key_id>/change", methods=["GET", "POST"])
@signed_in(KEYS_WRITE)
def change_key(principal: Principal, key_id: str) -> str | Response | tuple[str, int]:
    """The form of a key's details, and what was typed into it. What was left as it is changes nothing."""
    keys = attached(Keys)
    key = keys.present(principal, key_id)
    version = max(1, request.form.get("version", key.version, type=int))
    seen = key if version >= key.version else fold(islice(keys.events(key_id), version))
    shown = texts_of(seen)
    typed = typed_in(request.form, shown)
    changed = {name: text for name, text in typed.items() if text not in {shown[name], escaped(shown[name])}}
    # What somebody else changed meanwhile stands, unless it was typed over.
    form = texts_of(key) | changed | {"reason": request.form.get("reason", "")}
    page = partial(render_template, "keys/change.html", key=key, form=form, rules=rules())
    if request.method == "GET":
        return page(errors={})
    try:
        if changed:
            command = KeyChangeSchema().load(read(changed) | {"reason": form["reason"] or None})
            attached(Keys).commands.change(principal, key_id, command, origin(), if_versions={seen.version})
    except ValidationError as error:
        return page(errors=_by_field(error)), 422
    except ForbiddenError as error:
        if "scopes" in changed:
            return page(errors={"scopes": [_not_held(error)]}), 403
        return page(errors={"form": [str(_denied(error))]}), 403
    except StaleVersionError:
        return page(errors={"form": [_CHANGED_MEANWHILE]}), 412
    return redirect(url_for("keys.key_details", key_id=key_id), 303)


@blueprint.route("/keys/<key_id>/rotate", methods=["GET", "POST"])
@signed_in(KEYS_WRITE)
def rotate_key(principal: Principal, key_id: str) -> str | Response | tuple[str, int]:
    """Asks for how long the old secret stays good, and shows the new one, this once."""
    page = partial(_rotation, principal, key_id)
    if request.method == "GET":
        return page({})
    grace = request.form.get("grace_seconds", type=int)
    if grace not in _GRACES:
        return page({"grace_seconds": ["Choose for how long the old secret stays good."]}), 422
    try:
        asked = _asked(principal, str(grace))
        done = attached(Keys).commands.rotate(principal, key_id, grace, origin(), asked)
    except IdempotencyConflictError:
        return page({"form": [_ROTATED_ALREADY]}), 422
    except ForbiddenError as error:
        return page({"form": [str(_denied(error))]}), 403
    return _shown_once(principal, done, rotated=True)


@blueprint.route("/keys/<key_id>/revoke", methods=["GET", "POST"])
@signed_in(KEYS_WRITE)
def revoke_key(principal: Principal, key_id: str) -> str | Response | tuple[str, int]:
    """Asks whether it is meant, and why."""
    page = partial(render_template, "keys/revoke.html", form=request.form, rules=rules())
    if request.method == "GET":
        return page(key=_present(principal, key_id), errors={})
    try:
        query = RevocationSchema().load({"reason": request.form.get("reason") or None})
    except ValidationError as error:
        return page(key=_present(principal, key_id), errors=_by_field(error)), 422
    attached(Keys).commands.revoke(principal, key_id, query["reason"], origin())
    return redirect(url_for("keys.key_details", key_id=key_id), 303)


def _present(principal: Principal, key_id: str) -> Key:
    return attached(Keys).present(principal, key_id)


def _not_held(error: ForbiddenError) -> str:
    """What people read who grant a scope that they don't hold. It is recorded like any other denial."""
    return f"You don't hold {_denied(error).scope}, so you can't grant it. Remove it, or ask an owner."


def _denied(error: ForbiddenError) -> ForbiddenError:
    attached(Access).denied(error.principal, error.scope, origin())
    return error


def _asked(principal: Principal, what: str) -> Idempotency:
    """The name of this one request, which the form carries, with what is asked for."""
    token = request.form.get("idempotency_key") or secrets.token_urlsafe()
    return idempotency_of(principal, token, what.encode())


def _by_field(error: ValidationError) -> dict[str, list[str]]:
    """What is wrong with each field; what is wrong with an item of a list, with the list."""
    messages: dict[str, list[str]] = {}
    for row in field_errors(error.messages_dict):
        messages.setdefault(row["field"].partition(".")[0], []).append(row["message"])
    return messages


def _shown_once(principal: Principal, done: CommandResult, *, rotated: bool = False) -> str | Response:
    if done.api_key is None:
        flash(_SHOWN_ALREADY.format(done.key.name), "info")
        return redirect(url_for("keys.list_keys", after=done.position), 303)
    return render_template(
        "keys/created.html",
        key=presented(done.key),
        api_key=done.api_key.reveal(),
        rotated=rotated,
        **listed(principal, {"after": str(done.position)}),
    )


def _switching_off(principal: Principal, key_id: str, errors: Mapping[str, Any]) -> str:
    return render_template(
        "keys/switch_off.html",
        key=_present(principal, key_id),
        form=request.form,
        errors=errors,
        back=request.form.get("back", ""),
        back_url=_back(key_id),
    )


def _back(key_id: str, **position: Any) -> str:
    """Where a switch was: the key's own page, or a list."""
    place = request.form.get("back", "")
    if place == "details":
        return url_for("keys.key_details", key_id=key_id)
    return url_for("keys.list_keys", **place_of(place), **position)


def _details(principal: Principal, key_id: str, no_moment: Sequence[str] = ()) -> str:
    """One key now; with what is wrong with the moment of the past that was asked for, if one was."""
    keys = attached(Keys)
    key, now = keys.present(principal, key_id), keys.commands.now()
    grace_ends_at = key.previous_expires_at or 0
    return render_template(
        "keys/details.html",
        key=presented(key, now),
        old_secret_ends_at=grace_ends_at if grace_ends_at > now else None,
        lifecycle=_lifecycle(principal, key_id, key.version),
        use=chart(attached(Usage).read(key_id, DAYS, now), now),
        errors={"at": no_moment} if no_moment else {},
    )


def _past_details(principal: Principal, key_id: str, at: str) -> str:
    """One key as it was, with the steps to what happened before and after. What is typed is UTC."""
    moment = parse_point_in_time(typed_in_utc(at))
    past = attached(Keys).past(principal, key_id, moment)
    return render_template(
        "keys/details.html",
        key=presented(past.key, past.at),
        lifecycle=_lifecycle(principal, key_id, past.key.version + _LIFECYCLE_PAGE // 2),
        past=past,
        last=_moment(past.last),
        errors={},
    )


def _lifecycle(principal: Principal, key_id: str, newest: int) -> dict[str, Any]:
    """A page of a key's events, newest first: from version `newest`, or before the one that the URL names.

    `older` and `newer` are the versions that the neighbouring pages come before, where there are such.
    """
    keys = attached(Keys)
    version = keys.commands.ledger.version(subject(key_id))
    end = min(max(1, request.args.get("before", newest + 1, type=int) - 1), version)
    start = max(end - _LIFECYCLE_PAGE, 0)
    events = keys.history(principal, key_id, start, end - start).events
    return {
        "moments": [_moment(event) for event in reversed(events)],
        "older": start + 1 if start else None,
        "newer": min(end + _LIFECYCLE_PAGE, version) + 1 if end < version else None,
    }


def _moment(event: Event) -> dict[str, Any]:
    """What happened to a key: when, by whom, from where, from what to what."""
    return {
        "at": event.at,
        "actor": actor_name(event.actor.label, event.actor.kind),
        "ip": event.request.ip,
        "position": event.position,
        **describe(event.data)._asdict(),
    }


def _form(typed: Mapping[str, str], errors: Mapping[str, Any]) -> str:
    """The form with what was typed, what is wrong with it, and the name of this one request."""
    token = secrets.token_urlsafe()
    return render_template("keys/new.html", form=typed, errors=errors, rules=rules(), idempotency_key=token)


def _rotation(principal: Principal, key_id: str, errors: Mapping[str, Any]) -> str:
    return render_template(
        "keys/rotate.html",
        key=_present(principal, key_id),
        graces=_GRACES,
        errors=errors,
        idempotency_key=secrets.token_urlsafe(),
    )
