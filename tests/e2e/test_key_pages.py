"""Changing, rotating and revoking a key on the pages."""

import re

import pytest
import requests
from playwright.sync_api import Page, expect

from tests.support.processes import until
from tests.support.service import Service

KEY = re.compile(r"kl_[0-9A-Za-z]{50}")


@pytest.fixture
def token(service: Service, page: Page) -> str:
    """A key whose page is open."""
    token = service.key("orders:read", "keyledger:keys.read", name="Billing")
    page.goto(f"/keys/{key_id(token)}")
    return token


def key_id(token: str) -> str:
    return token[3:15]


def answer(service: Service, token: str) -> int:
    """The API's response status for a caller with this key."""
    headers = {"Authorization": f"Bearer {token}"}
    return requests.get(f"{service.url}/v1/keys", headers=headers, timeout=60).status_code


def test_changed_details_appear_in_the_lifecycle_with_before_and_after(page: Page, token: str) -> None:
    page.get_by_role("link", name="Edit", exact=True).click()
    expect(page.get_by_label("Enter Key Name")).to_have_value("Billing")
    page.get_by_label("Enter Key Name").fill("Invoices")
    page.get_by_label("Scopes").fill("orders:read\norders:write")
    page.get_by_label("Expires (UTC)").fill("2099-01-02T03:04")
    page.get_by_label("Reason").fill("a new owner")
    page.get_by_role("button", name="Save").click()
    page.wait_for_url(f"**/keys/{key_id(token)}")
    expect(page.get_by_role("heading", name="Invoices", level=1)).to_be_visible()
    changed = page.get_by_role("listitem").filter(has_text="Key changed")
    expect(changed).to_contain_text("Billing")
    expect(changed).to_contain_text("orders:write")
    expect(changed).to_contain_text("a new owner")
    expect(page.locator("dl.facts time[datetime='2099-01-02T03:04:00.000Z']")).to_be_visible()


def test_saving_an_unchanged_form_changes_nothing(page: Page, token: str) -> None:
    page.get_by_role("link", name="Edit", exact=True).click()
    page.get_by_role("button", name="Save").click()
    page.wait_for_url(f"**/keys/{key_id(token)}")
    expect(page.get_by_text("Key changed")).to_have_count(0)


def test_a_concurrent_change_is_not_overwritten(page: Page, token: str, service: Service) -> None:
    page.get_by_role("link", name="Edit", exact=True).click()
    service.run("key", "disable", key_id(token), "--workspace", service.workspace)
    page.get_by_label("Enter Key Name").fill("Too late")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_contain_text(
        "Someone else changed this key while you were editing it"
    )
    expect(page.get_by_label("Enter Key Name")).to_have_value("Too late")
    here = page.context.new_page()
    here.goto(f"/keys/{key_id(token)}")
    expect(here.get_by_role("heading", name="Billing", level=1)).to_be_visible()


def test_saving_again_applies_the_change_on_top_of_a_concurrent_one(page: Page, token: str) -> None:
    other = page.context.new_page()
    for tab in (page, other):
        tab.goto(f"/keys/{key_id(token)}/change")
    other.get_by_label("Description").fill("theirs")
    other.get_by_role("button", name="Save").click()
    page.get_by_label("Enter Key Name").fill("Mine")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_label("Description")).to_have_value("theirs")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", name="Mine", level=1)).to_be_visible()
    expect(page.locator("dl.facts")).to_contain_text("theirs")


def test_invalid_details_show_errors_at_their_fields(page: Page, token: str) -> None:
    page.get_by_role("link", name="Edit", exact=True).click()
    page.get_by_label("Scopes").fill("NOT A SCOPE")
    page.get_by_label("Expires (UTC)").fill("2001-01-01T00:00")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#scopes-error")).to_contain_text("isn't a valid scope")
    expect(page.locator("#expires_at-error")).to_contain_text("future")
    expect(page.get_by_label("Scopes")).to_have_value("NOT A SCOPE")
    assert token not in page.content()


def test_a_rotated_secret_is_shown_once_and_the_old_one_works_during_the_grace(
    page: Page, token: str, service: Service
) -> None:
    page.get_by_role("link", name="Rotate", exact=True).click()
    page.get_by_label("Keep the old secret working for").select_option("1 hour")
    page.get_by_role("button", name="Rotate", exact=True).click()
    modal = page.get_by_role("dialog")
    shown = KEY.search(modal.inner_text())
    assert shown
    assert key_id(shown[0]) == key_id(token)
    assert (answer(service, token), answer(service, shown[0])) == (200, 200)
    page.get_by_role("link", name="View Details").click()
    page.wait_for_url("**/keys")
    assert shown[0] not in page.content()
    page.goto(f"/keys/{key_id(token)}")
    expect(page.get_by_text("The previous secret works until")).to_be_visible()
    page.get_by_role("link", name="Rotate", exact=True).click()
    page.get_by_role("button", name="Rotate", exact=True).click()
    expect(modal).to_be_visible()
    assert (answer(service, token), answer(service, shown[0])) == (401, 401)


def test_an_invalid_grace_period_rotates_nothing(page: Page, token: str, service: Service) -> None:
    page.get_by_role("link", name="Rotate", exact=True).click()
    page.evaluate("document.querySelector('#grace_seconds option').value = 'soon'")
    page.get_by_role("button", name="Rotate", exact=True).click()
    expect(page.locator("#grace_seconds-error")).to_contain_text("Choose how long")
    assert answer(service, token) == 200


def test_a_revoked_key_is_refused_permanently(page: Page, token: str, service: Service) -> None:
    page.get_by_role("link", name="Revoke", exact=True).click()
    expect(page.get_by_text("can't be restored.")).to_be_visible()
    assert answer(service, token) == 200
    page.get_by_label("Reason").fill("leaked")
    page.get_by_role("button", name="Revoke permanently").click()
    page.wait_for_url(f"**/keys/{key_id(token)}")
    expect(page.get_by_text("Revoked", exact=True)).to_be_visible()
    expect(page.get_by_role("switch")).to_be_disabled()
    expect(page.get_by_role("link", name="Rotate", exact=True)).to_have_count(0)
    expect(page.get_by_role("listitem").filter(has_text="Key revoked")).to_contain_text("leaked")
    assert answer(service, token) == 401


def test_the_usage_of_a_key_is_shown_as_chart_and_table(page: Page, token: str, service: Service) -> None:
    use = page.get_by_role("region", name="Usage in the last 30 days")
    expect(use).to_contain_text("No requests yet.")
    for status, switched in ((200, "disable"), (401, "enable")):
        for _ in range(3):
            assert answer(service, token) == status
        service.run("key", switched, key_id(token), "--workspace", service.workspace)

    def is_counted() -> bool:
        page.reload()
        return "3 accepted 3 rejected" in use.inner_text().replace("\n", " ")

    until(is_counted, what="the count")
    expect(use.get_by_role("img", name=re.compile("peak 6"))).to_be_visible()
    use.get_by_text("Day by day").click()
    expect(use.get_by_role("row").nth(1)).to_contain_text(re.compile(r"3\s+3 disabled"))
    expect(page.locator("dl.facts > div").filter(has_text="Last used").locator("time")).to_be_visible()


def test_the_point_in_time_form_uses_utc(page: Page, token: str) -> None:
    moment = page.get_by_label("View the key at this time (UTC)")
    for typed, words in (
        ("2001-02-03T04:05", "The key was created at"),
        ("2222-01-01T00:00:01", "in the future"),
    ):
        moment.fill(typed)
        page.get_by_role("button", name="View", exact=True).click()
        expect(page.locator("#at-error")).to_contain_text(words)
        expect(moment).to_have_value(typed)
        expect(page.get_by_role("heading", name="Billing", level=1)).to_be_visible()
    born = page.locator("dl.facts time").first.get_attribute("datetime")
    assert born
    moment.fill(born.removesuffix("Z"))
    page.get_by_role("button", name="View", exact=True).click()
    expect(page.get_by_text("You're viewing the key as it was")).to_be_visible()
    assert token not in page.content()
