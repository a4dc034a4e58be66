"""The pages where owners manage accounts and their roles.

An account is named by a field of the form or the query, because an e-mail address may have any character.
"""

import secrets
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from marshmallow import ValidationError

from services.accounts.commands import Accounts
from services.accounts.model.account import AccountExistsError, OwnAccountError
from services.accounts.passwords import new_password
from services.accounts.read_model.account_list import AccountList
from services.accounts.web.schemas import NewAccountSchema, ReasonSchema, RoleSchema
from shared.errors import InvalidFieldError
from shared.identity import ADMIN, ROLES, Principal
from shared.web.access import attached, idempotency_of, origin, signed_in

_PAGE = 100

blueprint = Blueprint("account_pages", __name__, url_prefix="/accounts")


@blueprint.get("")
@signed_in(ADMIN)
def list_accounts(principal: Principal) -> ResponseReturnValue:
    """Lists the accounts of the workspace."""
    page = attached(AccountList).page(principal, _PAGE, request.args.get("cursor", ""))
    return render_template("accounts/list.html", accounts=page.rows, next_cursor=page.next_cursor)


@blueprint.route("/new", methods=["GET", "POST"])
@signed_in(ADMIN)
def add_account(principal: Principal) -> ResponseReturnValue:
    """Adds an account, and shows its temporary password once."""
    if request.method == "GET":
        return _new_form({}, {})
    typed = {name: request.form.get(name, "") for name in ("email", "role")}
    password = new_password()
    try:
        form = NewAccountSchema().load(typed)
        added = attached(Accounts).add(principal, form["email"], form["role"], password, origin())
    except ValidationError as error:
        return _new_form(typed, error.messages_dict), 422
    except InvalidFieldError as error:
        return _new_form(typed, {error.field: [str(error)]}), 422
    except AccountExistsError as error:
        return _new_form(typed, {"email": [str(error)]}), 422
    return _shown_once(added.subject.partition(":")[2], password, added=True)


@blueprint.get("/person")
@signed_in(ADMIN)
def show_account(principal: Principal) -> ResponseReturnValue:
    """Shows one account: role, status, password."""
    return _account_page(principal, {})


@blueprint.post("/role")
@signed_in(ADMIN)
def change_role(principal: Principal) -> ResponseReturnValue:
    """Changes the role of an account."""
    email = _email()
    try:
        role = RoleSchema().load(request.form.to_dict())["role"]
        account = attached(Accounts).change_role(principal, email, role, origin())
    except ValidationError as error:
        return _account_page(principal, error.messages_dict), 422
    except OwnAccountError as error:
        return _account_page(principal, {"role": [str(error)]}), 409
    return _done(email, f"{account.email} is {account.role} now.")


@blueprint.post("/disable")
@signed_in(ADMIN)
def disable(principal: Principal) -> ResponseReturnValue:
    """Disables an account."""
    email = _email()
    try:
        reason = ReasonSchema().load(request.form.to_dict())["reason"]
        account = attached(Accounts).disable(principal, email, reason, origin())
    except ValidationError as error:
        return _account_page(principal, error.messages_dict), 422
    except OwnAccountError as error:
        return _account_page(principal, {"reason": [str(error)]}), 409
    return _done(email, f"{account.email} is disabled, and signed out everywhere.")


@blueprint.post("/enable")
@signed_in(ADMIN)
def enable(principal: Principal) -> ResponseReturnValue:
    """Enables an account."""
    account = attached(Accounts).enable(principal, _email(), origin())
    return _done(account.email, f"{account.email} may sign in again.")


@blueprint.route("/password", methods=["GET", "POST"])
@signed_in(ADMIN)
def reset_password(principal: Principal) -> ResponseReturnValue:
    """Asks for confirmation, then shows the new temporary password once."""
    email = _email()
    if request.method == "GET":
        account = attached(Accounts).find(principal, email)
        return render_template(
            "accounts/reset.html", account=account, idempotency_key=secrets.token_urlsafe()
        )
    token = request.form.get("idempotency_key") or secrets.token_urlsafe()
    asked = idempotency_of(principal, token, email.encode("utf-8", "surrogatepass"))
    password = new_password()
    if attached(Accounts).reset_password(principal, email, password, origin(), asked):
        return _shown_once(attached(Accounts).find(principal, email).email, password, added=False)
    return _done(email, "The password was reset, and shown once. If it is lost, reset it again.")


def _email() -> str:
    return request.values.get("email", "")


def _done(email: str, message: str) -> ResponseReturnValue:
    flash(message, "success")
    return redirect(url_for("account_pages.show_account", email=email), 303)


def _new_form(typed: dict[str, str], errors: dict[str, Any]) -> str:
    return render_template("accounts/new.html", form=typed, errors=errors, roles=[*ROLES])


def _shown_once(email: str, password: str, *, added: bool) -> str:
    return render_template("accounts/password.html", email=email, password=password, added=added)


def _account_page(principal: Principal, errors: dict[str, Any]) -> str:
    account = attached(Accounts).find(principal, _email())
    return render_template(
        "accounts/account.html", account=account, errors=errors, form=request.form, roles=[*ROLES]
    )
