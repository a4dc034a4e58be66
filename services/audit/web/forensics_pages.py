"""Pages for forensics: past verdicts and leaked keys."""

from collections.abc import Mapping, Sequence
from typing import Any

from flask import Blueprint, redirect, render_template, request, url_for
from marshmallow import ValidationError
from werkzeug.wrappers import Response

from services.audit.forensics import Forensics, LeakLookup, NoSuchKeyError
from services.audit.queries import Audit
from services.audit.web.entry_view import row
from services.audit.web.forensics_schemas import NOT_A_KEY, TypedVerdictSchema
from shared.eventstore.point_in_time import PointInTimeError
from shared.forensics import NotAKeyError
from shared.identity import AUDIT_READ, Principal
from shared.text.key_detection import resembles_key
from shared.web.access import attached, signed_in

_FIELDS = ("key_id", "at", "scopes")
_NO_TOKENS = "This looks like an API key. Look it up instead: there, it doesn't get into the URL."
_NO_SUCH_KEY = "Your workspace has no key with this ID."
_NOT_OURS = "This isn't a key of your workspace, and never was. It may belong to another workspace."

blueprint = Blueprint("audit_forensics", __name__, template_folder="templates")


@blueprint.get("/audit/verdict")
@signed_in(AUDIT_READ)
def verdict_page(principal: Principal) -> str | tuple[str, int]:
    """Whether the key in the URL would have been accepted at the point in time there."""
    typed = _typed(request.args)
    if secret := _secret(typed):
        return secret
    if "at" not in request.args:
        return _verdict(typed)
    try:
        given = {name: value for name, value in typed.items() if value or name != "scopes"}
        query = TypedVerdictSchema().load(given)
        verdict = attached(Forensics).verdict(principal, **query)
    except ValidationError as error:
        return _verdict(typed, errors=error.messages_dict), 422
    except PointInTimeError as error:
        return _verdict(typed, errors={"at": [str(error)]}), 422
    except NoSuchKeyError:
        return _verdict(typed, errors={"key_id": [_NO_SUCH_KEY]}), 404
    return _verdict(typed, verdict=verdict)


@blueprint.post("/audit/verdict")
@signed_in(AUDIT_READ)
def ask_for_verdict(_: Principal) -> Response | tuple[str, int]:
    """Redirects to the verdict, unless a field looks like a key, which mustn't get into a URL."""
    typed = _typed(request.form)
    chosen: dict[str, Any] = {name: value for name, value in typed.items() if value or name == "at"}
    return _secret(typed) or redirect(url_for("audit_forensics.verdict_page", **chosen), 303)


@blueprint.route("/audit/lookup", methods=["GET", "POST"])
@signed_in(AUDIT_READ)
def lookup_page(principal: Principal) -> str | tuple[str, int]:
    """Looks up the key that was sent. It doesn't redirect, so the key doesn't get into a URL."""
    if request.method == "GET":
        return _lookup()
    try:
        found = attached(Forensics).look_up(principal, request.form.get("api_key", "").strip())
    except NotAKeyError:
        return _lookup(errors={"api_key": [NOT_A_KEY]}), 422
    except NoSuchKeyError:
        return _lookup(errors={"api_key": [_NOT_OURS]}), 404
    return _lookup(found)


def _typed(given: Mapping[str, str]) -> dict[str, str]:
    return {name: given.get(name, "").strip() for name in _FIELDS}


def _secret(typed: Mapping[str, str]) -> tuple[str, int] | None:
    """The response if a field looks like a key, without the key."""
    errors = {name: [_NO_TOKENS] for name, value in typed.items() if resembles_key(value)}
    return (_verdict(dict(typed) | dict.fromkeys(errors, ""), errors=errors), 422) if errors else None


def _verdict(typed: Mapping[str, str], **more: Any) -> str:
    return render_template("audit/verdict.html", typed=typed, **{"errors": {}, "verdict": None} | more)


def _lookup(found: LeakLookup | None = None, errors: Mapping[str, Sequence[str]] | None = None) -> str:
    return render_template(
        "audit/lookup.html",
        found=found,
        errors=errors or {},
        deeds=[row(entry, {}) for entry in found.entries] if found else [],
        lag=attached(Audit).lag() if found else 0,
    )
