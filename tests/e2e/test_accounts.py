"""Owners add accounts and manage their roles, on the pages and at the command line."""

import json
import subprocess
from itertools import count

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.service import Service
from tests.support.web_client import Visitor, given_password

PASSWORD = "a long password"
_numbers = count(1)


@pytest.fixture
def owner(service: Service) -> Visitor:
    visitor = Visitor(service.url)
    assert visitor.sign_in(*service.sign_in()).status_code == 303
    return visitor


@pytest.fixture
def email(service: Service) -> str:
    """The e-mail of a developer's account."""
    address = f"developer{next(_numbers)}@example.com"
    return service.account(address, "developer", PASSWORD)


def sign_in(page: Page, email: str, password: str) -> None:
    page.goto("/sign-in")
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def test_an_owner_adds_demotes_disables_and_enables_an_account(
    page: Page, browser: Browser, service: Service
) -> None:
    page.get_by_role("navigation").get_by_role("link", name="Accounts").click()
    expect(page.get_by_role("heading", name="Accounts")).to_be_visible()
    page.get_by_role("link", name="+ Add account").click()
    page.get_by_label("E-mail").fill("Grace@Example.com")
    page.get_by_label("Role").select_option("developer")
    page.get_by_role("button", name="Add").click()
    expect(page.get_by_role("heading", name="Account added")).to_be_visible()
    given = page.locator("#given-password").inner_text()
    page.get_by_role("link", name="Done").click()
    assert given not in page.content()
    row = page.get_by_role("row").filter(has_text="grace@example.com")
    expect(row).to_contain_text("Developer")
    expect(row).to_contain_text("Never")

    elsewhere = browser.new_context(base_url=service.url)
    elsewhere.set_default_timeout(60_000)
    grace = elsewhere.new_page()
    sign_in(grace, "grace@example.com", given)
    grace.wait_for_url("**/keys")
    expect(grace.get_by_text("You're using a temporary password.")).to_be_visible()
    expect(grace.get_by_role("navigation").get_by_role("link", name="Accounts")).to_have_count(0)
    grace.get_by_role("link", name="grace@example.com").click()
    expect(grace.get_by_role("heading", name="Your account")).to_be_visible()
    grace.get_by_label("Current password").fill(given)
    grace.get_by_label("New password", exact=True).fill("a password of my own")
    grace.get_by_label("Confirm new password").fill("a password of my own")
    grace.get_by_role("button", name="Change password").click()
    expect(grace.get_by_text("Your password was changed.")).to_be_visible()
    expect(grace.get_by_text("You're using a temporary password")).to_have_count(0)
    grace.goto("/keys/new")
    expect(grace.get_by_role("heading", name="Create API Key")).to_be_visible()

    page.reload()
    expect(row).not_to_contain_text("Never")
    row.get_by_role("link", name="grace@example.com").click()
    expect(page.get_by_text("The temporary password was changed.")).to_be_visible()
    page.get_by_label("Role").select_option("auditor")
    page.get_by_role("button", name="Change role").click()
    expect(page.get_by_text("grace@example.com is auditor now.")).to_be_visible()
    grace.reload()
    expect(grace.get_by_text("Ask an owner of this workspace")).to_be_visible()

    page.get_by_label("Reason").fill("left the company")
    page.get_by_role("button", name="Disable account").click()
    expect(page.get_by_text("grace@example.com is disabled, and signed out everywhere.")).to_be_visible()
    grace.goto("/keys")
    assert "/sign-in" in grace.url
    sign_in(grace, "grace@example.com", "a password of my own")
    expect(grace.get_by_text("Incorrect e-mail address or password")).to_be_visible()
    page.get_by_role("button", name="Enable account").click()
    sign_in(grace, "grace@example.com", "a password of my own")
    grace.wait_for_url("**/keys")
    elsewhere.close()


def test_an_account_is_added_once_and_its_password_is_shown_once(service: Service, owner: Visitor) -> None:
    fields = {"email": " Heidi@Example.com ", "role": "auditor"}
    added = owner.submit("/accounts/new", "/accounts/new", **fields)
    assert added.headers["Cache-Control"] == "no-store"
    password = given_password(added.text)
    again = owner.submit("/accounts/new", "/accounts/new", **fields)
    assert again.status_code == 422
    assert "has an account already" in again.text.split('id="email-error"')[1].split("</p>")[0]
    assert 'value=" Heidi@Example.com "' in again.text
    assert '<option value="auditor" selected>' in again.text
    assert "given-password" not in again.text
    assert password not in again.text + owner.page("/accounts").text
    assert Visitor(service.url).sign_in("heidi@example.com", password).status_code == 303
    assert password not in service.output


@pytest.mark.parametrize(
    ("email", "role", "field", "message"),
    [
        ("", "auditor", "email", "Enter the e-mail address"),
        ("nobody", "auditor", "email", "must have one @"),
        ("a" * 260 + "@x", "auditor", "email", "up to 254 characters"),
        ("x@example.com", "", "role", "Choose a role"),
        ("x@example.com", "root", "role", "Choose a role"),
    ],
)
def test_an_invalid_new_account_is_rejected_at_its_field(
    owner: Visitor, email: str, role: str, field: str, message: str
) -> None:
    refused = owner.submit("/accounts/new", "/accounts/new", email=email, role=role)
    assert refused.status_code == 422
    assert message in refused.text.split(f'id="{field}-error"')[1].split("</p>")[0]
    assert f'value="{email}"' in refused.text


def test_a_repeated_reset_form_resets_the_password_once_and_ends_the_sessions(
    service: Service, owner: Visitor, email: str
) -> None:
    person = Visitor(service.url)
    assert person.sign_in(email, PASSWORD).status_code == 303
    asked = owner.page(f"/accounts/password?email={email}")
    assert "Reset password" in asked.text
    assert person.is_in()
    key = asked.text.split('name="idempotency_key" value="')[1].split('"')[0]
    form = {"email": email, "idempotency_key": key}
    password = given_password(owner.submit("/accounts/password", "/account", **form).text)
    assert not person.is_in()
    again = owner.submit("/accounts/password", "/account", **form)
    assert again.status_code == 303
    assert "shown once" in owner.page(f"/accounts/person?email={email}").text
    assert person.sign_in(email, PASSWORD).status_code == 422
    assert person.sign_in(email, password).status_code == 303


def test_owners_cannot_demote_disable_or_reset_their_own_account(service: Service, owner: Visitor) -> None:
    own = service.sign_in()[0]
    page = owner.page(f"/accounts/person?email={own}").text
    assert "Only another owner can change your role" in page
    assert "Disable account" not in page
    for path, fields in (("role", {"role": "auditor"}), ("disable", {"reason": ""}), ("password", {})):
        refused = owner.submit(f"/accounts/{path}", "/account", email=own, **fields)
        assert refused.status_code == 409
    assert owner.page("/accounts").status_code == 200


@pytest.mark.parametrize("role", ["developer", "auditor"])
def test_only_owners_can_see_and_change_accounts(service: Service, role: str, email: str) -> None:
    name = f"{role}{next(_numbers)}@example.com"
    service.account(name, role, PASSWORD)
    person = Visitor(service.url)
    person.sign_in(name, PASSWORD)
    for path in ("", "/new", f"/person?email={email}", f"/password?email={email}"):
        assert person.page(f"/accounts{path}").status_code == 403
    for path in ("new", "role", "disable", "enable", "password"):
        fields = {"email": email, "role": "owner", "reason": ""}
        assert person.submit(f"/accounts/{path}", "/account", **fields).status_code == 403
    assert "Accounts</a>" not in person.page("/account").text
    assert Visitor(service.url).sign_in(email, PASSWORD).status_code == 303


def test_an_account_of_another_workspace_is_reported_as_not_found(service: Service, email: str) -> None:
    name = service.account("other-owner@example.com", "owner", PASSWORD, "other")
    stranger = Visitor(service.url)
    stranger.sign_in(name, PASSWORD)
    assert email not in stranger.page("/accounts").text
    for address in (email, "nobody@example.com"):
        pages = [stranger.page(f"/accounts/{path}?email={address}") for path in ("person", "password")]
        fields = {"email": address, "role": "owner", "reason": ""}
        paths = ("role", "disable", "enable", "password")
        pages += [stranger.submit(f"/accounts/{path}", "/account", **fields) for path in paths]
        assert [page.status_code for page in pages] == [404] * 6
        assert all(f"no account {address}" in page.text for page in pages)
    assert Visitor(service.url).sign_in(email, PASSWORD).status_code == 303


@pytest.mark.parametrize("address", ["a/b?c#d&e=f%2f@example.com", "<b>x</b>@example.com", "用户@例子.公司"])
def test_links_and_forms_work_for_any_email(page: Page, service: Service, address: str) -> None:
    service.account(address, "developer", PASSWORD)
    page.goto("/accounts")
    page.get_by_role("link", name=address).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(address)
    page.get_by_label("Role").select_option("auditor")
    page.get_by_role("button", name="Change role").click()
    expect(page.get_by_text(f"{address} is auditor now.")).to_be_visible()


@pytest.mark.drill
def test_operators_can_manage_accounts_at_the_command_line(service: Service, email: str) -> None:
    def run(command: str, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        return service.run("account", command, "--workspace", service.workspace, *arguments, stdin=stdin)

    def listed() -> dict[str, str]:
        rows = json.loads(run("list", "--json").stdout)["accounts"]
        (found,) = [row for row in rows if row["email"] == email]
        return {name: found[name] for name in ("role", "status")}

    person = Visitor(service.url)
    assert listed() == {"role": "developer", "status": "active"}
    assert "as auditor." in run("role", email, "auditor").stdout
    assert "is disabled" in run("disable", email, "--reason", "left").stdout
    assert listed() == {"role": "auditor", "status": "disabled"}
    assert person.sign_in(email, PASSWORD).status_code == 422
    assert "is enabled" in run("enable", email).stdout
    printed = run("password", email)
    assert printed.stderr.startswith(f"The new password of {email} works now.")
    assert person.sign_in(email, PASSWORD).status_code == 422
    assert person.sign_in(email, printed.stdout.strip()).status_code == 303
    given = run("password", email, "--password-stdin", stdin="another long password\n")
    assert given.stdout == ""
    assert person.sign_in(email, "another long password").status_code == 303
    assert "Last sign-in" in run("list").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("disable", "nobody@example.com"), "There is no account nobody@example.com"),
        (("enable", "owner@localhost", "--workspace", "other"), "There is no account owner@localhost"),
        (("password", "owner@localhost", "--password-stdin"), "at least 12 characters"),
    ],
)
def test_a_command_line_error_is_one_line(service: Service, arguments: tuple[str, ...], words: str) -> None:
    ended = service.run("account", *arguments, stdin="short\n")
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert words in line
