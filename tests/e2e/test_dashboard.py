"""The five steps of the product guide, in a real browser."""

import re

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from services.keys.model.token import parse
from tests.support.service import Service

KEY = re.compile(r"kl_[0-9A-Za-z]{50}")


def create(page: Page, name: str, description: str = "") -> str:
    """Creates a key with the form, and returns the key that the modal shows."""
    page.get_by_role("link", name="+ Create API Key").click()
    expect(page.get_by_role("heading", name="Create API Key")).to_be_visible()
    page.get_by_label("Enter Key Name").fill(name)
    page.get_by_label("Description").fill(description)
    page.get_by_role("button", name="Create", exact=True).click()
    modal = page.get_by_role("dialog", name="API Key has been successfully generated.")
    expect(modal.get_by_role("button", name="Copy API key")).to_be_visible()
    shown = KEY.search(modal.inner_text())
    assert shown, modal.inner_text()
    return shown[0]


def row(page: Page, name: str) -> Locator:
    return page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))


def test_the_product_guide_works_from_the_first_key_to_disabling_it(page: Page) -> None:
    expect(page.get_by_role("navigation").get_by_role("link", name="API Keys")).to_be_visible()
    expect(page.get_by_text("No API keys Found!")).to_be_visible()

    web = create(page, "My Web App Integration", "The shop's front end")
    parse(web)
    page.get_by_role("button", name="Copy API key").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == web
    page.get_by_role("link", name="View Details").click()
    page.wait_for_url("**/keys")
    expect(page.get_by_role("heading", name="Keys' Details")).to_be_visible()
    assert web not in page.content()

    listed = row(page, "My Web App Integration")
    expect(listed).to_contain_text(parse(web).hint)
    expect(listed.locator("time")).to_be_visible()
    expect(listed).to_contain_text("Active")

    sync = create(page, "Data Sync Script")
    page.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Copy and close").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert page.evaluate("navigator.clipboard.readText()") == sync
    expect(row(page, "Data Sync Script")).to_contain_text(parse(sync).hint)

    switch = page.get_by_role("switch", name="Status of My Web App Integration")
    for state, word in (("false", "Inactive"), ("true", "Active")):
        switch.click()
        if state == "false":
            page.get_by_role("dialog").get_by_role("button", name="Disable").click()
        expect(switch).to_have_attribute("aria-checked", state)
        page.reload()
        expect(switch).to_have_attribute("aria-checked", state)
        expect(listed).to_contain_text(word)
    expect(page.get_by_role("switch", name="Status of Data Sync Script")).to_have_attribute(
        "aria-checked", "true"
    )

    page.get_by_role("link", name="My Web App Integration").click()
    expect(page.get_by_role("definition").filter(has_text="The shop's front end").first).to_be_visible()
    expect(page.get_by_role("listitem").filter(has_text=re.compile("Key (en|dis)abled"))).to_have_count(2)
    page.get_by_role("link", name="View in audit log").click()
    expect(page.get_by_role("heading", name="Audit log")).to_be_visible()
    expect(page.get_by_text("Key disabled")).to_be_visible()


@pytest.mark.parametrize("leave", ["close", "escape", "reload", "back", "elsewhere"])
def test_the_full_key_is_not_shown_again_after_the_modal_closes(page: Page, leave: str) -> None:
    name = f"Seen once, {leave}"
    token = create(page, name)
    match leave:
        case "close":
            page.get_by_role("button", name="Close").click()
            page.get_by_role("button", name="Close without copying").click()
        case "escape":
            page.keyboard.press("Escape")
            page.get_by_role("button", name="Close without copying").click()
        case "reload":
            page.reload()
        case "back":
            page.go_back()
            page.go_forward()
        case _:
            page.goto("/audit")
            page.go_back()
    expect(page.locator("#created-key")).to_have_count(0)
    for _ in range(2):
        assert token not in page.content()
        page.reload()
    page.goto("/keys")
    assert token not in page.content()
    expect(row(page, name)).to_have_count(1)
    page.go_back()
    assert token not in page.content()


def test_a_form_sent_twice_creates_one_key_and_shows_it_once(page: Page) -> None:
    page.goto("/keys/new")
    page.get_by_label("Enter Key Name").fill("Sent twice")
    fields = page.locator("form[action='/keys/new'] [name]").evaluate_all(
        "inputs => Object.fromEntries(inputs.map(input => [input.name, input.value]))"
    )
    first = page.request.post("/keys/new", form=fields)
    second = page.request.post("/keys/new", form=fields)
    assert KEY.search(first.text())
    assert "no-store" in first.headers["cache-control"]
    assert not KEY.search(second.text())
    assert second.url.split("?")[0].endswith("/keys")
    page.goto("/keys")
    expect(row(page, "Sent twice")).to_have_count(1)


@pytest.mark.parametrize(
    "name", ["مفتاح الواجهة", "データ同期 🔑", "<script>alert(1)</script>", "a & b “c” 'd'", "{{ 7 * 7 }}"]
)
def test_names_in_any_script_and_with_markup_are_shown_as_entered(page: Page, name: str) -> None:
    create(page, name)
    page.get_by_role("link", name="View Details").click()
    expect(row(page, name)).to_have_count(1)
    page.get_by_role("link", name=name, exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(name)


def test_pages_require_signing_in(context: BrowserContext, service: Service) -> None:
    stranger = context.new_page()
    for path in ("/keys", "/keys/new", "/keys/00abcdefghij", "/audit"):
        stranger.goto(path)
        assert "/sign-in" in stranger.url
    stranger.get_by_label("E-mail").fill(service.sign_in()[0])
    stranger.get_by_label("Password").fill("not the password")
    stranger.get_by_role("button", name="Sign in").click()
    expect(stranger.get_by_text("Incorrect e-mail address or password")).to_be_visible()


def test_pages_require_signing_in_again_after_signing_out(page: Page) -> None:
    page.get_by_role("button", name="Sign out").click()
    page.goto("/keys")
    assert "/sign-in" in page.url


def test_pages_load_nothing_from_other_sites(page: Page, service: Service) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for path in ("/keys", "/keys/new", "/audit"):
        page.goto(path)
    assert asked
    assert all(url.startswith((service.url, "data:")) for url in asked)
