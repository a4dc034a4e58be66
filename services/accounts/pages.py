"""Signing in and out."""

import re

from flask import Blueprint, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue
from marshmallow import ValidationError

from services.accounts.commands import Accounts
from services.accounts.schemas import SignInSchema
from shared.web.access import attached
from shared.web.session import renew

_HOME = "/"
# A path of this site. Browsers read `//` and `/\` as the beginning of another host, and leave out
# control characters before they look.
_LOCAL_PATH = re.compile(r"/(?![/\\])[^\\\x00-\x20\x7f]*")
_NOT_RIGHT = "The e-mail address or the password is not right. Check both and try again."

blueprint = Blueprint("accounts", __name__, template_folder="templates")


@blueprint.route("/sign-in", methods=["GET", "POST"])
def sign_in() -> ResponseReturnValue:
    """The form, and what becomes of it."""
    if request.method != "POST":
        return _form({})
    try:
        form = SignInSchema().load(request.form.to_dict())
    except ValidationError as error:
        return _form(error.messages_dict), 422
    principal = attached(Accounts).sign_in(form["email"], form["password"])
    if principal is None:
        # Not 401: that must carry a challenge, which a form is not.
        return _form({"form": [_NOT_RIGHT]}), 422
    renew(session)
    session["account"] = principal.id
    return redirect(_next(), 303)


@blueprint.post("/sign-out")
def sign_out() -> ResponseReturnValue:
    """Ends the session in the store, so that its cookie is worth nothing from now on."""
    session.clear()
    return redirect(url_for("accounts.sign_in"), 303)


def _form(errors: dict[str, list[str]]) -> str:
    typed = {"email": request.form.get("email", "")}
    return render_template("accounts/sign_in.html", form=typed, errors=errors, next=_next())


def _next() -> str:
    """Where to go when signed in; never to another site."""
    target = request.values.get("next", "")
    return target if _LOCAL_PATH.fullmatch(target) else _HOME
