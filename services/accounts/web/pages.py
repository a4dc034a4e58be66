"""Pages to sign in and out, and to manage your own account."""

import re
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue
from marshmallow import ValidationError

from services.accounts.commands import Accounts
from services.accounts.login_throttle import TooManyAttemptsError
from services.accounts.model.account import Account
from services.accounts.passwords import PASSWORD_MIN_LENGTH, HasherBusyError
from services.accounts.sign_in import SignIn
from services.accounts.web.schemas import PasswordChangeSchema, SignInSchema
from shared.errors import InvalidFieldError
from shared.identity import Principal
from shared.web.access import attached, begin_session, origin, session_name, signed_in

_HOME = "/"
# A path of this site. Browsers take `//` and `/\` for the start of a host, and ignore control characters.
_LOCAL_PATH = re.compile(r"/(?![/\\])[^\\\x00-\x20\x7f]*")
_NOT_RIGHT = "Incorrect e-mail address or password. Check both and try again."
_GIVEN = "You're using a temporary password. Change it now."

blueprint = Blueprint("accounts", __name__, template_folder="templates")


@blueprint.route("/sign-in", methods=["GET", "POST"])
def sign_in() -> ResponseReturnValue:
    """Signs in, or shows the form with what is wrong."""
    if request.method != "POST":
        return _form({})
    try:
        form = SignInSchema().load(request.form.to_dict())
        account = attached(SignIn)(form["email"], form["password"], origin())
    except ValidationError as error:
        return _form(error.messages_dict), 422
    except (TooManyAttemptsError, HasherBusyError) as error:
        return _form({"form": [str(error)]}), error.status, {"Retry-After": str(error.retry_after)}
    if account is None:
        # Not 401: that must carry a challenge, which a form is not.
        return _form({"form": [_NOT_RIGHT]}), 422
    begin_session(account.subject, account.version)
    if account.password_is_given:
        flash(_GIVEN, "info")
    return redirect(_next(), 303)


@blueprint.post("/sign-out")
def sign_out() -> ResponseReturnValue:
    """Ends the session in the store, so that its cookie stops working."""
    session.clear()
    return redirect(url_for("accounts.sign_in"), 303)


@blueprint.get("/account")
@signed_in(None)
def own_account(principal: Principal) -> ResponseReturnValue:
    return _own_account(principal, {})


@blueprint.post("/account/password")
@signed_in(None)
def change_password(principal: Principal) -> ResponseReturnValue:
    """Changes the password. All other sessions end, and this one gets a new ID."""
    try:
        form = PasswordChangeSchema().load(request.form.to_dict())
        account = attached(Accounts).change_password(
            principal, form["current_password"], form["password"], origin(), session_name()
        )
    except ValidationError as error:
        return _own_account(principal, error.messages_dict), 422
    except InvalidFieldError as error:
        return _own_account(principal, {error.field: [str(error)]}), 422
    except (TooManyAttemptsError, HasherBusyError) as error:
        headers = {"Retry-After": str(error.retry_after)}
        return _own_account(principal, {"form": [str(error)]}), error.status, headers
    begin_session(account.subject, account.version)
    flash("Your password was changed. You are signed out everywhere else.", "success")
    return redirect(url_for("accounts.own_account"), 303)


@blueprint.post("/account/sign-out-everywhere")
@signed_in(None)
def sign_out_everywhere(principal: Principal) -> ResponseReturnValue:
    """Ends all sessions of the account, including this one."""
    attached(Accounts).sign_out_everywhere(principal, origin())
    session.clear()
    flash("You are signed out everywhere.", "success")
    return redirect(url_for("accounts.sign_in"), 303)


def _form(errors: dict[str, Any]) -> str:
    typed = {"email": request.form.get("email", "")}
    return render_template("accounts/sign_in.html", form=typed, errors=errors, next=_next())


def _own_account(principal: Principal, errors: dict[str, Any]) -> str:
    account: Account = attached(Accounts).own(principal)
    return render_template(
        "accounts/own.html", account=account, errors=errors, password_length=PASSWORD_MIN_LENGTH
    )


def _next() -> str:
    """Where to go after signing in; never another site."""
    target = request.values.get("next", "")
    return target if _LOCAL_PATH.fullmatch(target) else _HOME
