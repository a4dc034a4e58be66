"""The main flow in a browser without JavaScript, and for a read-only user."""

import re
from collections.abc import Iterator
from contextlib import suppress

import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Page, expect

from tests.e2e.test_dashboard import KEY, row
from tests.support.service import Service
from tests.support.sign_in import signed_in


@pytest.fixture
def plain(browser: Browser, service: Service) -> Iterator[Page]:
    """A developer's dashboard in a browser without JavaScript."""
    context = browser.new_context(base_url=service.url, java_script_enabled=False)
    context.set_default_timeout(60_000)
    yield signed_in(context, service, "developer")
    context.close()


def test_the_main_flow_works_without_javascript(plain: Page) -> None:
    plain.goto("/keys/new")
    plain.get_by_label("Enter Key Name").fill("Plain")
    plain.get_by_text("More: expiry and scopes").click()
    plain.get_by_label("Expires (UTC)").fill("2099-01-02T03:04")
    plain.get_by_label("Scopes").fill("NOT ONE")
    plain.get_by_role("button", name="Create", exact=True).click()
    expect(plain.locator("#scopes-error")).to_contain_text("isn't a valid scope")
    plain.get_by_label("Scopes").fill("orders:read")
    plain.get_by_role("button", name="Create", exact=True).click()

    modal = plain.get_by_role("dialog", name="API Key has been successfully generated.")
    token = KEY.search(modal.inner_text())
    assert token
    expect(modal.get_by_role("button", name=re.compile("Copy|Hide"))).to_have_count(0)
    modal.get_by_role("link", name="View Details").click()
    plain.wait_for_url("**/keys")
    assert token[0] not in plain.content()

    plain.get_by_role("switch", name="Status of Plain").click()
    plain.get_by_role("button", name="Disable").click()
    expect(row(plain, "Plain")).to_contain_text("Inactive")
    plain.get_by_role("switch", name="Status of Plain").click()
    expect(row(plain, "Plain")).to_contain_text("Active")

    row(plain, "Plain").get_by_role("link", name="Plain").click()
    details = plain.locator("dl.facts")
    expect(details).to_contain_text("orders:read")
    expect(details).to_contain_text("2 Jan 2099, 03:04 UTC")


def test_closing_without_javascript_returns_to_the_list_and_hides_the_key(plain: Page) -> None:
    plain.goto("/keys/new")
    plain.get_by_label("Enter Key Name").fill("Plainly closed")
    plain.get_by_role("button", name="Create", exact=True).click()
    token = KEY.search(plain.content())
    assert token
    plain.get_by_role("button", name="Close").click()
    expect(row(plain, "Plainly closed")).to_have_count(1)
    for _ in range(2):
        with suppress(Error):  # the browser asks whether to send the form again
            plain.go_back()
        expect(plain.get_by_text(token[0])).to_have_count(0)


def test_an_auditor_can_see_everything_and_change_nothing(context: BrowserContext, service: Service) -> None:
    key_id = service.key(name="Watched")[3:15]
    page = signed_in(context, service, "auditor")
    expect(page.get_by_role("link", name="+ Create API Key")).to_have_count(0)
    expect(page.get_by_role("switch", name="Status of Watched")).to_be_disabled()
    page.get_by_role("link", name="Watched").click()
    expect(page.get_by_role("heading", name="Lifecycle")).to_be_visible()
    expect(page.get_by_role("link", name="View in audit log")).to_be_visible()
    expect(page.get_by_role("switch")).to_be_disabled()
    expect(page.get_by_role("navigation", name="Actions")).to_have_count(0)

    token = page.locator("[name=csrf_token]").first.get_attribute("value")
    assert token
    for path, fields in (
        ("/keys/new", {"name": "Mine"}),
        (f"/keys/{key_id}/status", {"enabled": "false", "reason": ""}),
        (f"/keys/{key_id}/change", {"name": "Mine"}),
        (f"/keys/{key_id}/rotate", {"grace_seconds": "0"}),
        (f"/keys/{key_id}/revoke", {}),
    ):
        refused = page.request.post(path, form={"csrf_token": token} | fields)
        assert refused.status == 403, path
        assert "Ask an owner" in refused.text()
    page.reload()
    expect(page.get_by_role("listitem").filter(has_text="Key created")).to_have_count(1)
    expect(page.locator("ol.timeline li")).to_have_count(1)
