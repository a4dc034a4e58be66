"""Attaches the accounts to a web application."""

from flask import Flask, Response

from services.accounts import pages, people_pages
from services.accounts.attempts import TooManyAttemptsError
from services.accounts.commands import Accounts, NoLongerAllowedError, NoSuchAccountError
from services.accounts.credentials import HasherBusyError
from services.accounts.directory import Directory
from services.accounts.domain import OwnAccountError
from services.accounts.sign_in import SignIn
from shared.web.access import attach
from shared.web.app import refuse


def register(app: Flask, accounts: Accounts, sign_in: SignIn, directory: Directory) -> None:
    """Wiring and error mapping only."""
    for service in (accounts, sign_in, directory):
        attach(app, service)
    app.register_blueprint(pages.blueprint)
    app.register_blueprint(people_pages.blueprint)
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
