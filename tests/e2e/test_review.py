"""The audit log in an auditor's browser: search, the activity chart, timelines and exports."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from services.audit.export.verify import prove
from services.audit.integrity.signed_note import PublicKey
from services.keys.model.token import parse
from shared.identity import ADMIN
from tests.e2e.test_api import Caller
from tests.support.processes import until
from tests.support.service import Service
from tests.support.sign_in import signed_in


class Scene(NamedTuple):
    """A key that was created, renamed, created another key, and was revoked."""

    key_id: str
    made: str  # the id of the key that it made
    revoked_at: str


def next_second() -> None:
    """Waits for the next second, so that the following events get a separate bar."""
    second = int(time.time())
    until(lambda: int(time.time()) > second)


@pytest.fixture(scope="module")
def scene(service: Service) -> Scene:
    owner, token = Caller(service, service.key(ADMIN)), service.key(ADMIN)
    key_id = parse(token).id
    path = f"/v1/keys/{key_id}"
    next_second()
    renamed = owner("PATCH", path, json={"name": "Nightly sync of orders", "description": "Copies"})
    assert renamed.status_code == 200
    next_second()
    made = Caller(service, token)("POST", "/v1/keys", json={"name": "Made by it"})
    assert owner("DELETE", f"{path}?reason=Found+in+a+gist").status_code == 200
    events = owner("GET", f"{path}/history").json()["events"]
    wanted = f"/v1/audit/entries?key_id={key_id}"
    until(lambda: len(owner("GET", wanted).json()["entries"]) == len(events), what="the audit log's entries")
    return Scene(key_id, made.json()["id"], events[-1]["at"])


@pytest.fixture
def auditor(context: BrowserContext, auditors_cookies: Any, scene: Scene) -> Iterator[Page]:
    assert scene
    context.add_cookies(auditors_cookies)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.goto("/audit")
    yield page
    assert not [text for text in complaints if "Content Security Policy" in text]


def titles(page: Page) -> list[str]:
    found: list[str] = page.locator(".entry summary strong").all_inner_texts()
    return found


def narrow(page: Page, **typed: str) -> None:
    page.get_by_text("Key, actor, event, IP address and time").click()
    for label, value in typed.items():
        page.get_by_label(label.replace("_", " ")).first.fill(value)
    page.get_by_role("button", name="Filter").click()


def test_a_revoked_key_is_found_by_each_of_its_names(auditor: Page) -> None:
    for name in ("nightly ORDERS", "caller"):
        auditor.goto("/audit")
        narrow(auditor, Key_name=name)
        auditor.wait_for_url(re.compile(r"/audit\?name="))
        found = [title for title in titles(auditor) if title != "Key created"]
        assert {"Key revoked", "Key changed"} <= set(found)
    expect(auditor.get_by_label("Key name")).to_have_value("caller")


def test_filters_combine_in_the_url_and_can_be_cleared(auditor: Page, scene: Scene) -> None:
    auditor.goto(f"/audit?q=gist&type=KeyRevoked&ip=127.0.0.1&key_id={scene.key_id}")
    assert titles(auditor) == ["Key revoked"]
    expect(auditor.get_by_label("Event", exact=True)).to_have_value("KeyRevoked")
    auditor.goto("/audit?ip=192.0.2.99")
    expect(auditor.get_by_role("heading", name="No entries match")).to_be_visible()
    expect(auditor.locator("#activity")).to_have_count(0)
    auditor.get_by_role("link", name="Clear the filter").click()
    expect(auditor).to_have_url(re.compile(r"/audit$"))


def test_an_entry_expands_to_full_details_with_before_and_after(auditor: Page, scene: Scene) -> None:
    auditor.goto(f"/audit?key_id={scene.key_id}&type=KeyDetailsChanged")
    entry = auditor.locator(".entry")
    entry.locator("summary").click()
    expect(entry.locator("del").first).to_have_text("caller")
    expect(entry.locator("ins").first).to_have_text("Nightly sync of orders")
    for words in (f"key:{scene.key_id}", "127.0.0.1", "python-requests", '"type":"KeyDetailsChanged"'):
        expect(entry).to_contain_text(words)
    assert len(re.findall(r"\b[0-9a-f]{64}\b", entry.inner_text())) == 2


def test_selecting_part_of_the_chart_filters_by_time(auditor: Page, scene: Scene) -> None:
    auditor.goto(f"/audit?key_id={scene.key_id}")
    chart = auditor.locator("#activity svg.chart")
    expect(chart).to_be_visible()
    bars = auditor.locator("#activity svg.chart a")
    expect(auditor.locator("#activity")).to_contain_text(f"{len(titles(auditor))} entries")
    before = titles(auditor)
    box = chart.bounding_box()
    assert box
    assert bars.count() >= 3
    auditor.mouse.move(box["x"] + box["width"] - 1, box["y"] + 5)
    auditor.mouse.down()
    auditor.mouse.move(box["x"] + 1.5 * box["width"] / bars.count(), box["y"] + 5, steps=5)  # not the first
    expect(auditor.locator(".activity-mark")).to_be_visible()
    auditor.mouse.up()
    auditor.wait_for_url(re.compile(r"since=.*until="))
    assert "key_id=" in auditor.url
    assert titles(auditor) == before[:-1]
    auditor.get_by_role("link", name="All time").click()
    auditor.wait_for_url(lambda url: "since=" not in url)
    assert "key_id=" in auditor.url


def test_the_chart_table_links_to_entries_by_keyboard(auditor: Page, scene: Scene) -> None:
    auditor.goto(f"/audit?key_id={scene.key_id}")
    expect(auditor.locator("#activity svg.chart")).to_be_visible()
    auditor.get_by_text("As a table").click()
    row = auditor.locator("#activity tbody tr").first
    count = int(row.locator("td").inner_text())
    row.get_by_role("link").press("Enter")
    auditor.wait_for_url(re.compile(r"since=.*until="))
    assert len(titles(auditor)) == count
    assert titles(auditor)[0] == "Key revoked"


def test_a_keys_timeline_has_actions_by_and_on_the_key(auditor: Page, scene: Scene) -> None:
    auditor.goto(f"/audit?key_id={scene.key_id}&type=KeyRevoked")
    auditor.locator(".entry summary").click()
    auditor.get_by_role("link", name="Timeline of this key").click()
    expect(auditor.get_by_role("heading", level=1)).to_have_text("Nightly sync of orders")
    heads = auditor.locator(".timeline-head strong")
    expect(heads).to_have_text(["Key revoked", "Key created", "Key changed", "Key created"])
    own = auditor.locator(".timeline .own")
    expect(own).to_have_count(1)
    own.get_by_role("link", name="Made by it").click()
    expect(auditor.get_by_role("heading", level=1)).to_have_text("Made by it")
    expect(auditor.locator(".timeline .own")).to_have_count(0)
    auditor.get_by_role("link", name="Nightly sync of orders").or_(
        auditor.locator(".timeline").get_by_role("link", name="caller")
    ).click()
    assert f"of={scene.key_id}" in auditor.url


def test_an_accounts_timeline_has_its_sign_ins(auditor: Page, service: Service) -> None:
    email = f"auditor@{service.workspace}.example"
    auditor.goto(f"/audit/timeline?of=account:{email}")
    expect(auditor.get_by_role("heading", level=1)).to_have_text(email)
    expect(auditor.locator(".timeline-head strong", has_text="Account added")).to_have_count(1)
    assert "Signed in" in auditor.locator(".timeline-head strong").all_inner_texts()
    auditor.goto("/audit/timeline?of=nobody")
    expect(auditor.get_by_role("heading", name="No entries found")).to_be_visible()


def test_filtered_entries_can_be_exported_as_a_verifiable_file(
    auditor: Page, service: Service, scene: Scene, tmp_path: Path
) -> None:
    auditor.goto(f"/audit?key_id={scene.key_id}")
    auditor.get_by_text("Export", exact=True).click()
    with auditor.expect_download() as download:
        auditor.get_by_role("button", name="JSON lines").click()
    file = tmp_path / "audit.jsonl"
    download.value.save_as(file)
    public_key = PublicKey.of_text(service.run("audit", "public-key").stdout.strip())
    proof = prove(file.read_bytes().splitlines(keepends=True), public_key)
    assert (proof.findings, proof.entries) == ([], 3)
    with auditor.expect_download() as download:
        auditor.get_by_role("button", name="CSV").click()
    download.value.save_as(file)
    assert file.read_text().count("KeyRevoked") == 1
    auditor.goto("/audit?type=AuditExported")
    until(lambda: auditor.reload() and len(titles(auditor)) == 2, what="the entries of both exports")
    auditor.locator(".entry summary").first.click()
    expect(auditor.locator(".entry").first).to_contain_text(scene.key_id)


def test_the_integrity_page_shows_the_last_check_checkpoint_and_public_key(
    auditor: Page, service: Service
) -> None:
    assert service.run("audit", "checkpoint").returncode == 0
    assert service.run("audit", "check").returncode == 0
    auditor.reload()
    auditor.get_by_role("link", name="Verified").click()
    expect(auditor.get_by_text("Verified on")).to_be_visible()
    expect(auditor.get_by_text(service.run("audit", "public-key").stdout.strip(), exact=True)).to_be_visible()
    expect(auditor.get_by_text("keyledger audit checkpoint v1")).to_be_visible()
    expect(auditor.get_by_role("link", name="Audit log")).to_have_attribute("aria-current", "true")


def test_a_filter_that_looks_like_a_key_is_rejected_and_not_shown(auditor: Page, service: Service) -> None:
    token = service.key(ADMIN)
    narrow(auditor, Actor=token)
    expect(auditor.get_by_text("This looks like an API key")).to_be_visible()
    assert token not in auditor.url + auditor.content()
    auditor.goto(f"/audit/timeline?of={token}")
    expect(auditor).to_have_url(re.compile(r"/audit$"))
    assert token not in auditor.content()


def test_a_name_matching_too_many_keys_asks_for_a_longer_name(auditor: Page, service: Service) -> None:
    owner = Caller(service, service.key(ADMIN))
    for number in range(101):
        assert owner("POST", "/v1/keys", json={"name": f"Crowd {number}"}).status_code == 201
    until(lambda: auditor.goto("/audit?q=crowd+100") and titles(auditor), what="the last entry")
    auditor.goto("/audit?name=crowd")
    expect(auditor.locator("#name-error")).to_contain_text("Enter more of it.")


def test_the_chart_works_without_javascript(browser: Browser, service: Service, scene: Scene) -> None:
    context = browser.new_context(base_url=service.url, java_script_enabled=False)
    page = signed_in(context, service, "auditor")
    page.goto(f"/audit?key_id={scene.key_id}")
    page.get_by_role("link", name="Activity over time").click()
    page.locator("svg.chart a").last.click(force=True)
    page.wait_for_url(re.compile(r"/audit\?.*since=.*until="))
    assert "Key revoked" in titles(page)
    context.close()
