"""The pages and the history endpoint of a key with thousands of events."""

import re
from typing import Any

import pytest
import requests

from services.cli.terminal import operator, request
from services.keys.components import KeyComponents
from services.keys.model.key import subject
from shared.eventstore.envelope import enveloped
from shared.eventstore.events import KeyToggled
from tests.support.principals import new_key
from tests.support.processes import until
from tests.support.service import Service
from tests.support.web_client import Visitor

TOGGLES = 3_000
EVENTS = TOGGLES + 1


@pytest.fixture(scope="module")
def key_id(service: Service) -> str:
    with service.components() as components:
        who, commands = operator(service.workspace), components.of(KeyComponents).keys.commands
        key = commands.create(who, new_key(name="Toggled"), request()).key
        payloads = [KeyToggled(enabled=bool(number % 2), reason="") for number in range(TOGGLES)]
        events = enveloped(
            payloads,
            subject=subject(key.id),
            after_version=1,
            workspace=service.workspace,
            actor=who.actor,
            request=request(),
            new_id=commands.new_id,
        )
        end = commands.ledger.append(subject(key.id), events, 1).position
        until(
            lambda: components.of(KeyComponents).views.live().checkpoint().position >= end, what="the views"
        )
    return key.id


@pytest.fixture(scope="module")
def owner(service: Service) -> Visitor:
    visitor = Visitor(service.url)
    assert visitor.sign_in(*service.sign_in()).status_code == 303
    return visitor


def shown(page: str) -> list[int]:
    """The event positions in the lifecycle, newest first, including the one shown above it."""
    lifecycle = page[page.index('<ol class="card timeline"') : page.index("</ol>")]
    return [int(number) for number in re.findall(r"(?:point: |shown above: )event (\d+)", lifecycle)]


def linked(page: str, name: str) -> str:
    found = re.search(rf'href="([^"]+)">{name}</a>', page)
    assert found, name
    return found[1].replace("&amp;", "&")


def test_the_key_page_shows_the_newest_events_and_links_to_older_ones(owner: Visitor, key_id: str) -> None:
    newest = owner.page(f"/keys/{key_id}")
    assert newest.status_code == 200
    assert len(newest.content) < 60_000
    positions = shown(newest.text)
    assert len(positions) == 20
    assert positions == sorted(positions, reverse=True)
    assert ">Newer<" not in newest.text
    older = owner.page(linked(newest.text, "Older"))
    assert shown(older.text) == [position - 20 for position in positions]
    assert shown(owner.page(linked(older.text, "Newer")).text) == positions
    first = owner.page(f"/keys/{key_id}?before=15")
    assert len(shown(first.text)) == 14
    assert ">Older<" not in first.text


@pytest.mark.parametrize("before", ["0", "-5", "1", "x", "9" * 30, str(2**53)])
def test_an_invalid_lifecycle_page_shows_the_nearest_one(owner: Visitor, key_id: str, before: str) -> None:
    page = owner.page(f"/keys/{key_id}?before={before}")
    assert page.status_code == 200
    assert 1 <= len(shown(page.text)) <= 20


def test_the_point_in_time_page_shows_the_events_around_it(owner: Visitor, key_id: str) -> None:
    at = shown(owner.page(f"/keys/{key_id}?before=1500").text)[0]
    past = owner.page(f"/keys/{key_id}?at={at}")
    positions = shown(past.text)
    assert (len(positions), positions.index(at)) == (20, 10)
    assert "Previous: event" in past.text
    older = owner.page(linked(past.text, "Older"))
    assert f"at={at}" in older.url
    assert "You're viewing the key as it was" in older.text
    assert shown(older.text) == [position - 20 for position in positions]


@pytest.mark.parametrize("page", ["change", "rotate", "revoke"])
def test_key_forms_do_not_grow_with_the_history(owner: Visitor, key_id: str, page: str) -> None:
    answer = owner.page(f"/keys/{key_id}/{page}")
    assert (answer.status_code, len(answer.content) < 30_000) == (200, True)


def test_the_history_endpoint_is_paginated_and_complete(service: Service, key_id: str) -> None:
    headers = {"Authorization": f"Bearer {service.key('keyledger:keys.read')}"}
    seen: list[int] = []
    query: dict[str, Any] = {"limit": 200}
    while True:
        url = f"{service.url}/v1/keys/{key_id}/history"
        body = requests.get(url, params=query, headers=headers, timeout=60).json()
        assert len(body["events"]) <= 200
        seen += [event["version"] for event in body["events"]]
        if body["next_cursor"] is None:
            break
        query["cursor"] = body["next_cursor"]
    assert seen == list(range(1, EVENTS + 1))
    end = requests.get(url, params={"cursor": 2**53}, headers=headers, timeout=60)
    assert end.json() == {"events": [], "next_cursor": None}
