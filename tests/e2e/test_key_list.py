"""The Keys' Details page in a real browser: search, sorting and the status switches."""

import re
from typing import Any

import pytest
import requests
from playwright.sync_api import BrowserContext, Locator, Page, Route, expect

from shared.text.words import words
from tests.support.processes import until
from tests.support.service import Service

NAMES = ("Alpha Sync", "beta billing", "Gamma data-sync", "Ärger Report")
_LOG_LINE = re.compile(r"kl_[0-9A-Za-z]{30}")


class Keys:
    """Creates the tests' keys with the API."""

    def __init__(self, service: Service) -> None:
        self._url = f"{service.url}/v1/keys"
        self._headers = {"Authorization": f"Bearer {service.key('keyledger:admin')}"}

    def make(self, name: str, **more: Any) -> dict[str, Any]:
        answer = requests.post(self._url, json={"name": name, **more}, headers=self._headers, timeout=60)
        assert answer.status_code == 201, answer.text
        self.position = answer.headers["X-Ledger-Position"]
        made: dict[str, Any] = answer.json()
        until(lambda: self._is_listed(self.position), what="the key in the list")
        return made

    def _is_listed(self, position: str) -> bool:
        headers = self._headers | {"X-Ledger-Position": position}
        return "X-Ledger-Behind" not in requests.get(self._url, headers=headers, timeout=60).headers

    def read(self, key_id: str) -> dict[str, Any]:
        read: dict[str, Any] = requests.get(f"{self._url}/{key_id}", headers=self._headers, timeout=60).json()
        return read

    def revoke(self, key_id: str) -> None:
        requests.delete(f"{self._url}/{key_id}", headers=self._headers, timeout=60).raise_for_status()

    def verify(self, token: str) -> None:
        asked = {"api_key": token}
        requests.post(f"{self._url}/verify", json=asked, headers=self._headers, timeout=60).raise_for_status()


@pytest.fixture(scope="module")
def keys(service: Service) -> Keys:
    made = Keys(service)
    for name in NAMES:
        made.make(name)
    return made


def shown(page: Page) -> Locator:
    return page.locator(".keys-name a")


def names(page: Page) -> list[str]:
    page.wait_for_load_state()
    texts: list[str] = shown(page).all_inner_texts()
    return texts


def row(page: Page, name: str) -> Locator:
    return page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))


def search(page: Page, text: str) -> None:
    page.get_by_role("searchbox").fill(text)
    page.get_by_role("button", name="Search").click()


@pytest.mark.usefixtures("keys")
def test_a_search_matches_word_prefixes_and_has_a_shareable_url(page: Page) -> None:
    search(page, "SYN")
    page.wait_for_url(re.compile(r"/keys\?search=SYN$"))
    assert sorted(names(page)) == ["Alpha Sync", "Gamma data-sync"]
    expect(page.get_by_role("searchbox")).to_have_value("SYN")
    search(page, "ärg")
    expect(shown(page)).to_have_text(["Ärger Report"])
    search(page, "ync")
    expect(page.get_by_role("heading", name="No keys match")).to_be_visible()
    page.get_by_role("link", name="Show all keys").click()
    page.wait_for_url(re.compile(r"/keys$"))
    assert set(NAMES) <= set(names(page))


def test_each_column_sorts_in_both_directions(page: Page, keys: Keys) -> None:
    off = keys.make("Zeta off")
    keys.revoke(off["id"])
    for column in ("Name", "API Key", "Date Created", "Status"):
        header = page.get_by_role("columnheader", name=column)
        ways = ["ascending", "descending"] if column != "Date Created" else ["descending", "ascending"]
        orders = []
        for way in ways:
            header.get_by_role("link").click()
            expect(header).to_have_attribute("aria-sort", way)
            orders.append(names(page))
        if column == "Status":
            assert (orders[0][-1], orders[1][0]) == ("Zeta off", "Zeta off")
        else:
            assert orders[0] == orders[1][::-1]
        if column == "Name":
            assert orders[0] == sorted(orders[0], key=words)


def test_a_status_filter_combines_with_a_search(page: Page, keys: Keys) -> None:
    gone = keys.make("Gone sync")
    keys.revoke(gone["id"])
    search(page, "sync")
    page.get_by_role("navigation", name="Status").get_by_role("link", name="Revoked").click()
    expect(page).to_have_url(re.compile(r"search=sync&status=revoked|status=revoked&search=sync"))
    expect(shown(page)).to_have_text(["Gone sync"])
    expect(page.get_by_role("switch", name="Status of Gone sync")).to_be_disabled()
    search(page, "alpha")
    assert "status=revoked" in page.url
    expect(page.get_by_role("heading", name="No keys match")).to_be_visible()


def test_a_pasted_key_opens_its_page_and_appears_in_no_url_or_log(
    page: Page, keys: Keys, service: Service
) -> None:
    made = keys.make("Pasted")
    token = made["api_key"]
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    search(page, f" {token} ")
    expect(page).to_have_url(f"{service.url}/keys/{made['id']}")
    page.goto("/keys")
    for wrong, text in ((token[:-1] + "-", "mistyped"), (token[3:-4], "mistyped")):
        search(page, wrong)
        expect(page.locator("#search-error")).to_contain_text(text)
        expect(page.get_by_role("searchbox")).to_be_focused()
        assert wrong not in page.content()
    page.goto("/keys")
    search(page, made["id"])
    expect(shown(page)).to_have_text(["Pasted"])
    assert not any(_LOG_LINE.search(url) for url in asked), asked
    assert not _LOG_LINE.search(service.output)


def test_the_list_shows_who_created_a_key_and_when_it_was_last_used(page: Page, keys: Keys) -> None:
    made = keys.make("Used")
    page.goto(f"/keys?after={keys.position}")
    expect(row(page, "Used")).to_contain_text("Never")
    expect(row(page, "Used")).to_contain_text("by key ‹caller›")
    keys.verify(made["api_key"])
    until(lambda: page.reload() and "Never" not in row(page, "Used").inner_text())
    expect(row(page, "Used").locator("time")).to_have_count(2)


def test_disabling_asks_for_confirmation_and_records_the_reason(page: Page, keys: Keys) -> None:
    made = keys.make("Confirmed")
    page.goto(f"/keys?after={keys.position}")
    switch = page.get_by_role("switch", name="Status of Confirmed")
    switch.click()
    dialog = page.get_by_role("dialog", name="Disable Confirmed?")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(switch).to_have_attribute("aria-checked", "true")
    assert keys.read(made["id"])["status"] == "active"

    switch.click()
    dialog.get_by_label("Reason").fill("found in a chat")
    dialog.get_by_role("button", name="Disable").click()
    expect(switch).to_have_attribute("aria-checked", "false")
    expect(row(page, "Confirmed")).to_contain_text("Inactive")
    expect(switch).to_be_focused()
    assert keys.read(made["id"])["status"] == "inactive"
    switch.click()  # on again: nobody has to be asked
    expect(row(page, "Confirmed").get_by_text("Active", exact=True)).to_be_visible()
    assert keys.read(made["id"])["status"] == "active"
    row(page, "Confirmed").get_by_role("link", name="Confirmed").click()
    expect(page.get_by_text("found in a chat")).to_be_visible()


def test_disabling_on_the_key_page_asks_for_confirmation_too(page: Page, keys: Keys) -> None:
    made = keys.make("Confirmed there")
    page.goto(f"/keys/{made['id']}")
    page.get_by_role("switch").click()
    page.get_by_role("dialog").get_by_label("Reason").fill("not used")
    page.get_by_role("dialog").get_by_role("button", name="Disable").click()
    expect(page.get_by_role("switch")).to_have_attribute("aria-checked", "false")
    expect(page.get_by_text("not used")).to_be_visible()
    expect(page).to_have_url(re.compile(f"/keys/{made['id']}$"))


@pytest.mark.parametrize("failure", ["refused", "away"])
def test_a_failed_switch_reverts_and_shows_the_reason(page: Page, keys: Keys, failure: str) -> None:
    name = f"Stuck, {failure}"
    made = keys.make(name)
    page.goto(f"/keys?after={keys.position}")

    def fail(route: Route) -> None:
        if failure == "away":
            route.abort()
        else:
            body = '<main id="main"><p class="lead">The store does not answer at the moment.</p></main>'
            route.fulfill(status=503, body=body, content_type="text/html")

    page.route("**/status", fail)
    switch = page.get_by_role("switch", name=f"Status of {name}")
    switch.click()
    page.get_by_role("dialog").get_by_role("button", name="Disable").click()
    expect(page.get_by_role("alert")).to_contain_text(f"{name} is still enabled.")
    reason = "The server didn't respond" if failure == "away" else "The store does not answer"
    expect(page.get_by_role("alert")).to_contain_text(reason)
    expect(switch).to_have_attribute("aria-checked", "true")
    assert keys.read(made["id"])["status"] == "active"
    page.unroute("**/status")
    switch.click()
    page.get_by_role("dialog").get_by_role("button", name="Disable").click()
    expect(switch).to_have_attribute("aria-checked", "false")
    expect(page.get_by_role("alert")).to_be_empty()


def test_without_javascript_disabling_asks_on_a_page_and_returns_to_the_list(
    context: BrowserContext, page: Page, keys: Keys
) -> None:
    made = keys.make("Plain switch")
    cookies = context.cookies()
    assert context.browser
    plain = context.browser.new_context(
        base_url=page.url.rsplit("/", 1)[0], java_script_enabled=False, storage_state={"cookies": cookies}
    )
    try:
        old = plain.new_page()
        old.goto("/keys?search=plain&sort=name")
        old.get_by_role("switch", name="Status of Plain switch").click()
        expect(old.get_by_role("heading", name="Disable Plain switch?")).to_be_visible()
        old.get_by_label("Reason").fill("d" * 500)
        old.get_by_role("button", name="Disable").click()
        expect(old).to_have_url(re.compile(r"/keys\?search=plain&sort=name&after=\d+$"))
        expect(old.get_by_role("switch")).to_have_attribute("aria-checked", "false")
        assert keys.read(made["id"])["status"] == "inactive"
        old.get_by_role("switch").click()
        expect(old.get_by_role("switch")).to_have_attribute("aria-checked", "true")
    finally:
        plain.close()


def test_the_list_is_paginated(page: Page, service: Service) -> None:
    token = service.key("keyledger:admin")
    headers = {"Authorization": f"Bearer {token}"}
    for number in range(60):
        requests.post(
            f"{service.url}/v1/keys", json={"name": f"many {number:02}"}, headers=headers, timeout=5
        ).raise_for_status()
    page.goto("/keys?search=many&sort=name")
    expect(shown(page)).to_have_text([f"many {number:02}" for number in range(50)])
    page.get_by_role("link", name="Next page").click()
    expect(shown(page)).to_have_text([f"many {number:02}" for number in range(50, 60)])
    expect(page.get_by_role("searchbox")).to_have_value("many")
    page.get_by_role("link", name="First page").click()
    expect(shown(page)).to_have_count(50)


def test_a_pasted_key_of_another_workspace_is_reported_as_unknown(page: Page, service: Service) -> None:
    search(page, service.key(workspace="elsewhere"))
    expect(page.locator("#search-error")).to_contain_text("Your workspace has no such key")
