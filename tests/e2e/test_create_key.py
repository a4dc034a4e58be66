"""Creating a key: the form's validation, and the modal that shows the key once."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from tests.support.service import Service
from tests.support.sign_in import signed_in

KEY = re.compile(r"kl_[0-9A-Za-z]{50}")
ON_LINE = "2099-01-02T03:04"


def form(page: Page) -> Locator:
    page.goto("/keys/new")
    return page.locator("form[action='/keys/new']")


def typed(form: Locator, **texts: str) -> None:
    """Fills in the fields, including those under More."""
    form.locator("details").evaluate("details => { details.open = true }")
    for name, text in texts.items():
        form.locator(f"[name={name}]").fill(text)


def create(page: Page, name: str) -> tuple[Locator, str]:
    """Creates a key; returns the modal and the key it shows."""
    page.goto("/keys/new")
    page.get_by_label("Enter Key Name").fill(name)
    page.get_by_role("button", name="Create", exact=True).click()
    modal = page.get_by_role("dialog", name="API Key has been successfully generated.")
    expect(modal.get_by_role("button", name="Copy API key")).to_be_visible()  # its script has run
    shown = KEY.search(modal.inner_text())
    assert shown
    return modal, shown[0]


def clipboard(page: Page) -> str:
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text


BAD = [
    ("name", ""),
    ("name", "   "),
    ("name", "n" * 101),
    ("description", "d" * 501),
    ("expires_at", "2001-01-01T00:00"),
    ("scopes", "orders:read NO:SCOPE"),
]


@pytest.mark.parametrize(("field", "text"), BAD)
def test_the_browser_shows_the_same_error_as_the_server(page: Page, field: str, text: str) -> None:
    asked: list[str] = []
    texts = {"name": "kept", "description": "kept <b>too</b>\nas typed", "scopes": "a:b", field: text}

    def shown() -> str:
        box = page.locator(f"[name={field}]")
        expect(box).to_have_attribute("aria-invalid", "true")
        expect(box).to_be_focused()
        expect(page.locator("[aria-invalid=true]")).to_have_count(1)
        for name, value in texts.items():
            expect(page.locator(f"[name={name}]")).to_have_value(value)
        described = (box.get_attribute("aria-describedby") or "").split()
        assert f"{field}-error" in described
        told: str = page.locator(f"#{field}-error").inner_text()
        return told

    typed(form(page), **texts)
    page.on("request", lambda request: asked.append(request.method))
    page.get_by_role("button", name="Create", exact=True).click()
    by_browser = shown()
    assert asked == []
    with page.expect_navigation():
        page.locator("form[action='/keys/new']").evaluate("form => form.submit()")  # without the check
    assert "POST" in asked
    assert shown() == by_browser != ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("NO SCOPE", "isn't a valid scope"),
        ("keyledger:all", "is unknown"),
        ("a " * 3 + "ä", "isn't a valid scope"),
    ],
)
def test_an_invalid_scope_keeps_the_entered_values(page: Page, text: str, message: str) -> None:
    typed(form(page), name="Scoped", expires_at=ON_LINE, scopes=text)
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.locator("#scopes-error")).to_contain_text(message)
    expect(page.get_by_label("Scopes")).to_be_focused()
    expect(page.get_by_label("Scopes")).to_have_value(text)
    expect(page.get_by_label("Enter Key Name")).to_have_value("Scoped")
    expect(page.get_by_label("Expires (UTC)")).to_have_value(re.compile(ON_LINE))


def test_a_scope_the_user_does_not_hold_is_rejected_at_its_field(
    context: BrowserContext, service: Service
) -> None:
    page = signed_in(context, service, "developer")
    typed(form(page), name="Too much", scopes="keyledger:admin")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.locator("#scopes-error")).to_contain_text("You don't hold keyledger:admin")
    expect(page.get_by_label("Enter Key Name")).to_have_value("Too much")
    page.goto("/keys")
    expect(page.get_by_role("link", name="Too much")).to_have_count(0)


def test_an_error_appears_on_leaving_the_field_and_disappears_when_fixed(page: Page) -> None:
    typed(form(page), description="d" * 501)
    page.get_by_label("Enter Key Name").focus()
    expect(page.locator("#description-error")).to_have_text("Use up to 500 characters.")
    page.get_by_label("Description").fill("d" * 500)
    expect(page.locator("#description-error")).to_be_hidden()
    expect(page.locator("[aria-invalid]")).to_have_count(0)


def test_the_browser_counts_characters_as_the_server_does(page: Page) -> None:
    typed(form(page), name="🔑" * 100)
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.get_by_role("dialog")).to_be_visible()


def test_an_incomplete_date_under_more_is_reported_and_not_sent(page: Page) -> None:
    typed(form(page), name="Half a date")
    page.get_by_label("Expires (UTC)").press_sequentially("0101")
    page.locator("summary", has_text="More").click()
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.get_by_label("Expires (UTC)")).to_be_focused()
    expect(page.locator("#expires_at-error")).to_contain_text("Finish the date")


def test_expiry_presets_and_scopes_are_saved_with_the_key(page: Page) -> None:
    typed(form(page), name="With all of it", scopes="orders:read\norders:write")
    page.get_by_role("button", name="1 year").click()
    page.get_by_role("button", name="Never").click()
    expect(page.get_by_label("Expires (UTC)")).to_have_value("")
    page.get_by_role("button", name="30 days").click()
    expect(page.locator("output")).to_contain_text("in your time")
    page.get_by_role("button", name="Create", exact=True).click()
    page.get_by_role("link", name="View Details").click()
    page.get_by_role("link", name="With all of it").click()
    details = page.locator("dl.facts")
    expect(details).to_contain_text("orders:write")
    ends = details.locator("time").nth(1).get_attribute("datetime")
    assert ends
    left = datetime.fromisoformat(ends) - datetime.now(UTC)
    assert timedelta(days=29, hours=23) < left <= timedelta(days=30)


def test_a_double_click_creates_one_key_and_shows_it(page: Page) -> None:
    form(page).get_by_label("Enter Key Name").fill("Clicked twice")
    page.get_by_role("button", name="Create", exact=True).dblclick()
    modal = page.get_by_role("dialog", name="API Key has been successfully generated.")
    assert KEY.search(modal.inner_text())
    page.goto("/keys")
    expect(page.get_by_role("link", name="Clicked twice")).to_have_count(1)


def test_resubmitting_the_form_creates_no_second_key(page: Page) -> None:
    fields = form(page).evaluate("form => Object.fromEntries(new FormData(form))") | {"name": "Once only"}
    assert KEY.search(page.request.post("/keys/new", form=fields).text())
    again = page.request.post("/keys/new", form=fields)
    assert "Once only” was already created, and its key was shown once" in again.text()
    other = page.request.post("/keys/new", form=fields | {"name": "Another"})
    assert other.status == 422
    assert "A key was already created from this form" in other.text()
    assert not KEY.search(again.text() + other.text())
    page.goto("/keys")
    expect(page.get_by_role("link", name="Once only")).to_have_count(1)
    expect(page.get_by_role("link", name="Another", exact=True)).to_have_count(0)


def test_the_modal_traps_the_focus_and_returns_it_on_closing(page: Page) -> None:
    modal, _ = create(page, "Focused")
    expect(modal).to_have_accessible_description(re.compile("only time you can see the full key of Focused"))
    expect(page.get_by_role("button", name="Copy API key")).to_be_focused()
    stops = set()
    for key in ["Tab"] * 8 + ["Shift+Tab"] * 8:
        page.keyboard.press(key)
        assert modal.evaluate("dialog => dialog.contains(document.activeElement)")
        stops.add(page.evaluate("document.activeElement.textContent.trim()"))
    assert {"Show", "Copy", "How to use it", "View Details"} <= stops
    page.get_by_role("link", name="View Details").press("Enter")
    page.wait_for_url("**/keys")
    expect(page.get_by_role("link", name="Focused")).to_be_focused()


def test_closing_the_modal_before_copying_asks_for_confirmation(page: Page) -> None:
    modal, token = create(page, "Nearly lost")
    question = modal.get_by_role("group", name="You haven't copied the key. It won't be shown again.")
    for _ in range(3):  # however often, and twice in a row
        page.keyboard.press("Escape")
        expect(question.get_by_role("button", name="Copy and close")).to_be_focused()
        page.keyboard.press("Escape")
        expect(question).to_have_count(0)
        expect(page.get_by_role("button", name="Copy API key")).to_be_focused()
    page.get_by_role("button", name="Close", exact=True).click()
    expect(modal.locator("#api-key")).to_have_text(token)
    question.get_by_role("button", name="Copy and close").click()
    page.wait_for_url("**/keys")
    expect(page.get_by_role("link", name="Nearly lost")).to_be_focused()
    assert clipboard(page) == token
    assert token not in page.content()


@pytest.mark.parametrize("way", ["button", "keys"])
def test_the_modal_closes_immediately_after_copying(page: Page, way: str) -> None:
    modal, token = create(page, f"Copied by {way}")
    if way == "button":
        page.get_by_role("button", name="Copy API key").click()
    else:
        modal.locator("#api-key").click()
        page.keyboard.press("Control+c")
    expect(modal.get_by_role("status")).to_have_text("Copied to the clipboard.")
    assert clipboard(page) == token
    page.keyboard.press("Escape")
    page.wait_for_url("**/keys")
    expect(modal).to_have_count(0)


def test_a_failed_copy_is_reported_and_selects_the_key(page: Page) -> None:
    modal, token = create(page, "Not copied")
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('refused')); }")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Copy and close").click()
    expect(modal.get_by_role("status")).to_contain_text("Couldn't copy automatically. The key is selected")
    assert page.evaluate("getSelection().toString()") == token
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Close without copying")).to_be_visible()


def test_the_key_is_hidden_until_shown_and_can_be_copied_while_hidden(page: Page) -> None:
    modal, token = create(page, "Over the shoulder")
    code = modal.locator("#api-key")
    unseen = "rgba(0, 0, 0, 0)"
    expect(code).to_have_css("color", unseen)
    page.get_by_role("button", name="Copy API key").click()
    expect(modal.get_by_role("status")).to_have_text("Copied to the clipboard.")
    assert clipboard(page) == token
    page.get_by_role("button", name="Show API key").click()
    expect(code).not_to_have_css("color", unseen)
    page.get_by_role("button", name="Hide API key").click()
    expect(code).to_have_css("color", unseen)


def test_copied_examples_do_not_contain_the_key(page: Page, service: Service) -> None:
    modal, token = create(page, "Used")
    modal.get_by_text("How to use it").click()
    for name, words in (
        ("Send a request with the key", "Authorization: Bearer $API_KEY"),
        ("Verify the key", f"{service.url}/v1/keys/verify"),
    ):
        modal.get_by_role("button", name=f"Copy: {name}").click()
        expect(modal.get_by_role("status")).to_contain_text("Example copied")
        assert words in clipboard(page)
        assert token not in clipboard(page)
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Copy and close")).to_be_visible()
