"""The dashboard's pages for keys."""

import secrets
from collections.abc import Mapping
from functools import partial
from itertools import islice
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from marshmallow import ValidationError
from werkzeug.wrappers import Response

from services.keys.commands import CommandResult, NoSuchKeyError, StaleVersionError, fold
from services.keys.model.key import Key
from services.keys.model.point_in_time import NotYetCreatedError
from services.keys.model.token import MalformedKeyError, parse
from services.keys.queries import Keys
from services.keys.web.forms import read, rules, texts_of, typed_in
from services.keys.web.presentation import chosen, details, listed, past_details, place_of
from services.keys.web.schemas import KeyChangeSchema, NewKeySchema, RevocationSchema, presented
from shared.clock import date_utc
from shared.eventstore.point_in_time import PointInTimeError
from shared.identity import KEYS_READ, KEYS_WRITE, ForbiddenError, Principal
from shared.store.idempotency import Idempotency, IdempotencyConflictError
from shared.text.characters import escaped
from shared.text.key_detection import resembles_key
from shared.web.access import Access, attached, idempotency_of, origin, signed_in
from shared.web.schemas import field_errors

_GRACES = {0: "Stop immediately", 3600: "1 hour", 86_400: "1 day", 604_800: "7 days", 2_592_000: "30 days"}
_MADE_ALREADY = (
    "A key was already created from this form, with different values. "
    "To create another key with these values, press Create."
)
_ROTATED_ALREADY = (
    "This form has already rotated the key, with another grace period. To rotate the key again, press Rotate."
)
_CHANGED_MEANWHILE = (
    "Someone else changed this key while you were editing it. Your changes are kept on top of theirs. "
    "Review them and save again."
)
_SHOWN_ALREADY = "“{}” was already created, and its key was shown once. If nobody copied it, rotate the key."

blueprint = Blueprint("keys", __name__, template_folder="templates")


@blueprint.get("/keys")
@signed_in(KEYS_READ)
def list_keys(principal: Principal) -> str:
    """Keys' Details."""
    return render_template("keys/list.html", **listed(principal, request.args))


@blueprint.post("/keys/search")
@signed_in(KEYS_READ)
def find_keys(principal: Principal) -> Response | tuple[str, int]:
    """Redirects to the list, or from a pasted key to its details, with only its ID in the URL."""
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
        error = "Your workspace has no such key."
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
    """Creates the key and shows it once. The same form sent again creates no second key."""
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
    """One key with its lifecycle, or with `?at=` as it was at that point in time."""
    at = request.args.get("at", "")
    page = partial(render_template, "keys/details.html")
    if not at:
        return page(**details(principal, key_id), errors={})
    try:
        return page(**past_details(principal, key_id, at), errors={})
    except PointInTimeError as error:
        return page(**details(principal, key_id), errors={"at": [str(error)]}), 422
    except NotYetCreatedError as error:
        created = f"The key was created at {date_utc(error.created.at)}. Use that or a later point in time."
        return page(**details(principal, key_id), errors={"at": [created]}), 404


@blueprint.post("/keys/<key_id>/status")
@signed_in(KEYS_WRITE)
def set_status(principal: Principal, key_id: str) -> str | Response | tuple[str, int]:
    """Enables or disables a key. Disabling asks for confirmation and a reason first."""
    reason = request.form.get("reason")
    if request.form.get("enabled") == "false" and reason is None:
        return _confirm_disabling(principal, key_id, {})
    try:
        command = KeyChangeSchema().load({"enabled": request.form.get("enabled"), "reason": reason or None})
    except ValidationError as error:
        return _confirm_disabling(principal, key_id, _by_field(error)), 422
    done = attached(Keys).commands.change(principal, key_id, command, origin())
    return redirect(_back(key_id, after=done.position), 303)


@blueprint.route("/keys/<key_id>/change", methods=["GET", "POST"])
@signed_in(KEYS_WRITE)
def change_key(principal: Principal, key_id: str) -> str | Response | tuple[str, int]:
    """Changes the details that were edited in the form, and nothing else."""
    keys = attached(Keys)
    key = keys.present(principal, key_id)
    version = max(1, request.form.get("version", key.version, type=int))
    seen = key if version >= key.version else fold(islice(keys.events(key_id), version))
    shown = texts_of(seen)
    typed = typed_in(request.form, shown)
    changed = {name: text for name, text in typed.items() if text not in {shown[name], escaped(shown[name])}}
    # What another user changed meanwhile is kept, unless the form changes it too.
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
    """Asks how long the old secret stays valid, then shows the new one once."""
    page = partial(_rotation, principal, key_id)
    if request.method == "GET":
        return page({})
    grace = request.form.get("grace_seconds", type=int)
    if grace not in _GRACES:
        return page({"grace_seconds": ["Choose how long the old secret stays valid."]}), 422
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
    """Asks for confirmation and a reason, then revokes the key."""
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
    """The message for granting a scope that the user doesn't hold. It is recorded like any other denial."""
    return f"You don't hold {_denied(error).scope}, so you can't grant it. Remove it, or ask an owner."


def _denied(error: ForbiddenError) -> ForbiddenError:
    attached(Access).denied(error.principal, error.scope, origin())
    return error


def _asked(principal: Principal, what: str) -> Idempotency:
    """Identifies this submission of the form by the token that the form carries, and what it asks for."""
    token = request.form.get("idempotency_key") or secrets.token_urlsafe()
    return idempotency_of(principal, token, what.encode())


def _by_field(error: ValidationError) -> dict[str, list[str]]:
    """The messages of each field. Those of an item of a list belong to the list."""
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


def _confirm_disabling(principal: Principal, key_id: str, errors: Mapping[str, Any]) -> str:
    return render_template(
        "keys/disable.html",
        key=_present(principal, key_id),
        form=request.form,
        errors=errors,
        back=request.form.get("back", ""),
        back_url=_back(key_id),
    )


def _back(key_id: str, **position: Any) -> str:
    """The page that the switch was on: the key's details or the list."""
    place = request.form.get("back", "")
    if place == "details":
        return url_for("keys.key_details", key_id=key_id)
    return url_for("keys.list_keys", **place_of(place), **position)


def _form(typed: Mapping[str, str], errors: Mapping[str, Any]) -> str:
    """The form with its values and errors, and a token that identifies this submission."""
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
