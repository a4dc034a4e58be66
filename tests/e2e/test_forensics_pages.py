"""Key forensics in an auditor's browser: point-in-time verdicts and leaked-key look-ups."""

import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import requests
from playwright.sync_api import BrowserContext, Page, Request, expect

from services.keys.model.token import parse
from shared.clock import parse_rfc3339, rfc3339
from shared.identity import ADMIN
from shared.store.connections import connect
from shared.store.embedded import EmbeddedServer
from tests.e2e.test_api import Caller
from tests.support.processes import until
from tests.support.service import Service
from tests.support.sign_in import signed_in
from tests.support.stores import everything

WHOLE_KEY = "Full key, as you found it"


class Leaked(NamedTuple):
    """A key that created another one before it was disabled and enabled again."""

    token: str
    id: str
    made: str  # the id of the key that it made
    born: str
    off: str


@pytest.fixture(scope="module")
def leaked(service: Service) -> Leaked:
    owner, token = Caller(service, service.key(ADMIN)), service.key(ADMIN)
    key_id = parse(token).id
    made = Caller(service, token)("POST", "/v1/keys", json={"name": "Made by the thief"})
    assert made.status_code == 201
    for body in ({"enabled": False, "reason": "Found in a gist"}, {"enabled": True}):
        time.sleep(0.01)  # so that each moment has a ms of its own
        assert owner("PATCH", f"/v1/keys/{key_id}", json=body).status_code == 200
    events = owner("GET", f"/v1/keys/{key_id}/history").json()["events"]
    entries = f"/v1/audit/entries?key_id={key_id}"
    until(lambda: len(owner("GET", entries).json()["entries"]) == len(events), what="the audit log's entries")
    return Leaked(token, key_id, made.json()["id"], events[0]["at"], events[1]["at"])


class Addresses(list[str]):
    """Every URL that a browser requested."""

    def note(self, request: Request) -> None:
        self.append(request.url)


@pytest.fixture
def addresses() -> Addresses:
    return Addresses()


@pytest.fixture
def auditor(context: BrowserContext, auditors_cookies: Any, addresses: Addresses) -> Iterator[Page]:
    context.add_cookies(auditors_cookies)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("request", addresses.note)
    yield page
    assert not [text for text in complaints if "Content Security Policy" in text]


def ask(page: Page, key_id: str, at: str, scopes: str = "") -> None:
    page.goto("/audit/verdict")
    page.get_by_label("Key ID").fill(key_id)
    page.get_by_label("Time (UTC)").fill(at.removesuffix("Z"))
    page.get_by_label("Required scopes").fill(scopes)
    page.get_by_role("button", name="Check").click()


def test_an_auditor_sees_whether_a_key_was_valid_at_a_time_and_why(auditor: Page, leaked: Leaked) -> None:
    ask(auditor, leaked.id, leaked.off, ADMIN)
    expect(auditor.get_by_role("alert")).to_contain_text(
        re.compile(r"No: key ‹caller› disabled it at .* UTC, for: Found in a gist\.")
    )
    # The URL can be shared, and shows the same verdict.
    auditor.goto(auditor.url)
    expect(auditor.get_by_text("DISABLED", exact=True)).to_be_visible()
    auditor.get_by_role("link", name="View the event in the audit log").click()
    expect(auditor.locator(".entry").filter(has_text="Key disabled")).to_have_count(1)

    ask(auditor, leaked.id, leaked.off)
    auditor.get_by_role("link", name="View the key at this time").click()
    expect(auditor.get_by_text("Status at this point: Inactive")).to_be_visible()

    before = rfc3339(parse_rfc3339(leaked.off) - 1)
    ask(auditor, leaked.id, before, "orders:read, orders:write")
    expect(auditor.get_by_role("alert")).to_contain_text("No: it lacked orders:read, orders:write.")
    ask(auditor, leaked.id, before)
    expect(auditor.get_by_role("status")).to_contain_text("Yes: ")
    ask(auditor, leaked.id, rfc3339(parse_rfc3339(leaked.born) - 1))
    expect(auditor.get_by_role("alert")).to_contain_text("No: it didn't exist yet.")
    expect(auditor.get_by_role("link", name="View the key at this time")).to_have_count(0)


def test_an_unknown_key_id_is_reported_at_its_field(auditor: Page, leaked: Leaked) -> None:
    ask(auditor, "000000000000", leaked.off)
    expect(auditor.get_by_label("Key ID")).to_be_focused()
    expect(auditor.locator("#key_id-error")).to_contain_text("Your workspace has no key with this ID.")
    # A browser omits trailing zeros.
    expect(auditor.get_by_label("Time (UTC)")).to_have_value(leaked.off.removesuffix("Z").rstrip("0"))


def test_an_auditor_can_look_up_a_leaked_key_and_its_actions(
    auditor: Page, leaked: Leaked, addresses: Addresses
) -> None:
    auditor.goto("/audit/lookup")
    auditor.get_by_label(WHOLE_KEY).fill(leaked.token)
    auditor.get_by_role("button", name="Look up").click()
    expect(auditor.get_by_role("heading", name="caller", exact=True)).to_be_visible()
    expect(auditor.get_by_role("alert")).to_contain_text("This secret still works")
    expect(auditor.get_by_text("Current", exact=True)).to_be_visible()
    expect(auditor.get_by_role("listitem").filter(has_text=leaked.made)).to_contain_text("from 127.0.0.1")
    auditor.get_by_text("Day by day").click()
    expect(auditor.get_by_role("table")).to_be_visible()
    assert auditor.url.endswith("/audit/lookup")
    assert leaked.token not in auditor.content()
    expect(auditor.get_by_label(WHOLE_KEY)).to_have_value("")
    expect(auditor.get_by_role("link", name="Revoke")).to_have_count(0)
    auditor.get_by_role("link", name="View all in the audit log").click()
    expect(auditor.get_by_text("Key created")).to_have_count(1)

    auditor.goto("/audit/lookup")
    auditor.get_by_label(WHOLE_KEY).fill(leaked.token[:-1])
    auditor.get_by_role("button", name="Look up").click()
    expect(auditor.locator("#api_key-error")).to_contain_text("mistyped or cut off")
    expect(auditor.get_by_label(WHOLE_KEY)).to_have_value("")
    assert len(addresses) > 3
    assert not any(leaked.token[10:36] in address for address in addresses)


def test_an_owner_can_revoke_a_key_from_the_look_up(page: Page, service: Service) -> None:
    token = service.key()
    page.goto("/audit/lookup")
    page.get_by_label(WHOLE_KEY).fill(token)
    page.get_by_role("button", name="Look up").click()
    page.get_by_role("link", name="Revoke").click()
    page.wait_for_url(f"**/keys/{parse(token).id}/revoke")
    page.get_by_role("button", name="Revoke permanently").click()
    page.goto("/audit/lookup")
    page.get_by_label(WHOLE_KEY).fill(token)
    page.get_by_role("button", name="Look up").click()
    expect(page.get_by_text("was permanently revoked")).to_be_visible()
    expect(page.get_by_role("link", name="Revoke")).to_have_count(0)


def test_the_forensics_pages_work_without_javascript(page: Page, service: Service, leaked: Leaked) -> None:
    browser = page.context.browser
    assert browser
    plain = browser.new_context(base_url=service.url, java_script_enabled=False)
    auditor = signed_in(plain, service, "auditor")
    ask(auditor, leaked.id, leaked.off)
    expect(auditor.get_by_text("disabled it at")).to_be_visible()
    auditor.goto("/audit/lookup")
    auditor.get_by_label(WHOLE_KEY).fill(leaked.token)
    auditor.get_by_role("button", name="Look up").click()
    expect(auditor.get_by_text("Current", exact=True)).to_be_visible()
    plain.close()


def test_the_forensics_pages_fit_a_phone_screen(auditor: Page, leaked: Leaked) -> None:
    auditor.set_viewport_size({"width": 360, "height": 780})
    ask(auditor, leaked.id, leaked.off)
    expect(auditor.get_by_role("alert")).to_be_visible()
    assert auditor.evaluate("document.documentElement.scrollWidth") <= 360
    auditor.goto("/audit/lookup")
    auditor.get_by_label(WHOLE_KEY).fill(leaked.token)
    auditor.get_by_role("button", name="Look up").click()
    expect(auditor.get_by_text("Current", exact=True)).to_be_visible()
    assert auditor.evaluate("document.documentElement.scrollWidth") <= 360


def test_looked_up_keys_are_not_stored(service: Service, leaked: Leaked) -> None:
    bearer = {"Authorization": f"Bearer {service.key(ADMIN)}"}
    url = f"{service.url}/v1/audit/lookup"
    damaged = [leaked.token, leaked.token[:-1], leaked.token[:-1] + "!", f"{leaked.token}\n"]
    answers = [requests.post(url, json={"api_key": text}, headers=bearer, timeout=60) for text in damaged]
    answers.append(requests.post(url, data=leaked.token, headers=bearer, timeout=60))
    answers.append(
        requests.post(
            url, data=f'"{leaked.token}', headers=bearer | {"Content-Type": "application/json"}, timeout=10
        )
    )
    assert [answer.status_code for answer in answers] == [200, 404, 404, 404, 415, 400]
    kept = [path.read_bytes() for path in service.data_dir.rglob("*") if path.is_file()]
    kept += [service.output.encode(), *(answer.content for answer in answers)]
    with connect(EmbeddedServer.in_directory(service.data_dir).url) as store:
        kept += everything(store)
    assert len(kept) > 20
    assert not any(leaked.token[10:36].encode() in content for content in kept)
