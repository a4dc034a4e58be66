"""Attaches the account service to a web application."""

from flask import Flask, Response

from services.accounts.commands import Accounts, NoLongerAllowedError, NoSuchAccountError
from services.accounts.login_throttle import TooManyAttemptsError
from services.accounts.model.account import OwnAccountError
from services.accounts.passwords import HasherBusyError
from services.accounts.read_model.account_list import AccountList
from services.accounts.sign_in import SignIn
from services.accounts.web import account_pages as account_pages
from services.accounts.web import pages
from shared.web.access import attach
from shared.web.errors.handlers import refuse


def register(app: Flask, accounts: Accounts, sign_in: SignIn, directory: AccountList) -> None:
    """Attaches the pages, and maps the errors of the service."""
    for service in (accounts, sign_in, directory):
        attach(app, service)
    app.register_blueprint(pages.blueprint)
    app.register_blueprint(account_pages.blueprint)
    app.register_error_handler(NoSuchAccountError, _no_such_account)
    app.register_error_handler(OwnAccountError, _conflict)
    app.register_error_handler(NoLongerAllowedError, _conflict)
    app.register_error_handler(TooManyAttemptsError, _later)
    app.register_error_handler(HasherBusyError, _later)


def _no_such_account(error: NoSuchAccountError) -> Response:
    return refuse(404, str(error))


def _conflict(error: OwnAccountError | NoLongerAllowedError) -> Response:
    return refuse(409, str(error))


def _later(error: TooManyAttemptsError | HasherBusyError) -> Response:
    return refuse(error.status, str(error), {"Retry-After": str(error.retry_after)})
