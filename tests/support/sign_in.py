"""Browser sessions for accounts of each role."""

from contextlib import suppress

from playwright.sync_api import BrowserContext, Page

from services.accounts.model.account import AccountExistsError
from tests.support.service import Service

PASSWORD = "a password of the tests"


def signed_in(context: BrowserContext, service: Service, role: str) -> Page:
    """Opens a page signed in with this role, and creates the account if necessary."""
    email = f"{role}@{service.workspace}.example"
    with suppress(AccountExistsError):
        service.account(email, role, PASSWORD)
    page = context.new_page()
    page.goto("/sign-in")
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/keys")
    return page
