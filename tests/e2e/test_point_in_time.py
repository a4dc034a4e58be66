"""A key at a point in time, by API and on its page."""

import re
import time
from typing import Any

import pytest
import requests
from playwright.sync_api import Page, expect

from shared.clock import parse_rfc3339, rfc3339
from tests.e2e.test_api import Caller, Json, create, problem
from tests.support.processes import until
from tests.support.service import Service


@pytest.fixture(scope="module")
def admin(service: Service) -> Caller:
    return Caller(service, service.key("keyledger:admin"))


def switched(caller: Caller, **fields: Any) -> tuple[Json, list[Json]]:
    """A key that was disabled and enabled again, and its events."""
    made = create(caller, **fields)
    for body in ({"enabled": False, "reason": "leaked"}, {"enabled": True}):
        assert caller("PATCH", f"/v1/keys/{made['id']}", json=body).status_code == 200
    events: list[Json] = caller("GET", f"/v1/keys/{made['id']}/history").json()["events"]
    return made, events


def at(caller: Caller, key_id: str, moment: object) -> requests.Response:
    # An unencoded plus in a query means a space.
    return caller("GET", f"/v1/keys/{key_id}", params={"at": moment})


def test_a_key_can_be_read_as_of_each_of_its_events(admin: Caller) -> None:
    made, events = switched(admin, name="Stepped", description="d", scopes=["orders:read"])
    shown = [at(admin, made["id"], event["position"]) for event in events]
    assert [answer.json()["status"] for answer in shown] == ["active", "inactive", "active"]
    assert [answer.json()["version"] for answer in shown] == [1, 2, 3]
    assert [answer.json()["updated_at"] for answer in shown] == [event["at"] for event in events]
    assert [answer.headers["ETag"] for answer in shown] == ['"1"', '"2"', '"3"']
    assert shown[0].json() == {name: value for name, value in made.items() if name != "api_key"}
    now = admin("GET", f"/v1/keys/{made['id']}?after={events[-1]['position']}")
    assert shown[-1].json() == now.json()
    assert [at(admin, made["id"], event["at"]).json()["version"] for event in events][-1] == 3


def test_a_key_can_be_read_as_of_a_time(admin: Caller) -> None:
    made = create(admin, name="Timed")
    time.sleep(0.005)  # so that the change is at least 2 ms later
    off = admin("PATCH", f"/v1/keys/{made['id']}", json={"enabled": False}).json()
    before = parse_rfc3339(off["updated_at"]) - 1
    assert at(admin, made["id"], rfc3339(before)).json()["status"] == "active"
    assert at(admin, made["id"], off["updated_at"]).json()["status"] == "inactive"
    elsewhere = rfc3339(before + 3_600_000).replace("Z", "+01:00")
    assert at(admin, made["id"], elsewhere).json()["status"] == "active"


def test_a_key_that_expired_later_is_shown_as_active_before(admin: Caller) -> None:
    expires = time.time_ns() // 1_000_000 + 1_500
    made = create(admin, name="Short-lived", expires_at=rfc3339(expires))
    born = admin("GET", f"/v1/keys/{made['id']}/history").json()["events"][0]["position"]
    until(lambda: admin("GET", f"/v1/keys/{made['id']}").json()["status"] == "expired", what="expiry")
    later = create(admin, name="Later")
    position = admin("GET", f"/v1/keys/{later['id']}/history").json()["events"][0]["position"]
    assert at(admin, made["id"], born).json()["status"] == "active"
    assert at(admin, made["id"], rfc3339(expires - 1)).json()["status"] == "active"
    assert at(admin, made["id"], rfc3339(expires)).json()["status"] == "expired"
    assert at(admin, made["id"], position).json()["status"] == "expired"


@pytest.mark.parametrize(
    ("moment", "rule"),
    [
        ("", "time like 2026-11-23T18:59:21.123Z. Or a position"),
        ("yesterday", "time like 2026-11-23T18:59:21.123Z. Or a position"),
        ("2026-11-23T18:59:21", "time like 2026-11-23T18:59:21.123Z. Or a position"),
        ("0", "a position of the ledger"),
        ("2222-11-23T18:59:21Z", "in the future"),
        ("999999", "not yet there"),
    ],
)
def test_an_invalid_point_in_time_is_rejected_with_its_rule(admin: Caller, moment: str, rule: str) -> None:
    made = create(admin, name="Whenever")
    refused = problem(at(admin, made["id"], moment), 422)
    assert [(row["field"], rule in row["message"]) for row in refused["errors"]] == [("at", True)], refused


def test_only_its_own_workspace_learns_when_a_key_was_created(service: Service, admin: Caller) -> None:
    made = create(admin, name="Young")
    detail = problem(at(admin, made["id"], 1), 404)["detail"]
    assert made["created_at"] in detail
    assert problem(at(admin, made["id"], "2001-01-01T00:00:00Z"), 404)["detail"] == detail
    foreign = Caller(service, service.key("keyledger:admin", workspace="far-away"))
    for moment in (1, "2001-01-01T00:00:00Z", made["created_at"], 999_999, "2222-01-01T00:00:00Z"):
        theirs = problem(at(foreign, made["id"], moment), 404)["detail"]
        assert theirs == problem(at(foreign, "000000000000", moment), 404)["detail"]
        assert made["created_at"] not in theirs


def test_the_lifecycle_links_navigate_through_a_keys_past(
    page: Page, service: Service, admin: Caller
) -> None:
    made, events = switched(admin, name="Walked <through>")
    born, off, on = (event["position"] for event in events)
    page.goto(f"/keys/{made['id']}")
    expect(page.get_by_role("switch")).to_have_count(1)
    expect(page.get_by_role("navigation", name="Lifecycle navigation")).to_have_count(0)

    page.get_by_role("link", name=f"View at this point: event {off}").click()
    page.wait_for_url(f"**/keys/{made['id']}?at={off}")
    expect(page.get_by_role("heading", level=1)).to_have_text("Walked <through>")
    expect(page.get_by_role("status")).to_contain_text("You're viewing the key as it was on")
    expect(page.get_by_role("status")).to_contain_text("Key disabled")
    expect(page.get_by_text("Status at this point: Inactive")).to_be_visible()
    expect(page.get_by_role("switch")).to_have_count(0)
    expect(page.locator("[aria-current=step]")).to_contain_text(f"event {off}")
    assert page.title().startswith(f"Walked <through> at event {off}")

    steps = page.get_by_role("navigation", name="Lifecycle navigation")
    steps.get_by_role("link", name=f"Previous: event {born}").click()
    expect(page.get_by_text("Status at this point: Active")).to_be_visible()
    expect(steps.get_by_role("link", name=re.compile("Previous"))).to_have_count(0)
    for position in (off, on):
        steps.get_by_role("link", name=f"Next: event {position}").click()
        page.wait_for_url(f"**?at={position}")
    expect(steps.get_by_role("link", name=re.compile("Next"))).to_have_count(0)
    steps.get_by_role("link", name="Back to the current state").click()
    page.wait_for_url(f"**/keys/{made['id']}")
    expect(page.get_by_role("switch")).to_have_count(1)

    for moment, words in (
        ("soon", "must be a time like"),
        ("999999", "not yet there"),
        ("1", "was created at"),
    ):
        answer = page.goto(f"/keys/{made['id']}?at={moment}")
        assert answer
        assert answer.status == (404 if moment == "1" else 422)
        expect(page.get_by_text(words)).to_be_visible()
        assert service.url in page.url
