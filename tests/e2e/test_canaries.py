"""Keys and passwords entered in the wrong field must not be stored anywhere."""

from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import pytest
import requests

from shared.store.connections import connect
from shared.store.embedded import EmbeddedServer
from tests.e2e.test_permissions import PAGES, PASSWORD, ask, signed_in
from tests.support.processes import until
from tests.support.service import Service
from tests.support.stores import everything
from tests.support.web_client import Visitor

CANARY_PASSWORD = "a canary that nobody guesses"
_TYPED = {"text", "search", "email", "password", "textarea"}


class Field(NamedTuple):
    """An input field of a form."""

    name: str
    kind: str
    value: str


class Form(NamedTuple):
    """A form's URL, method and fields."""

    action: str
    method: str
    fields: list[Field]


class Forms(HTMLParser):
    """The forms of a page."""

    def __init__(self, page: str, path: str) -> None:
        super().__init__()
        self.found: list[Form] = []
        self._path = path
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form" and given.get("method") != "dialog":
            self.found.append(Form(given.get("action") or self._path, given.get("method", "get"), []))
        kind = given.get("type", "text") if tag == "input" else tag
        if tag == "button" and "formaction" in given:
            self.found.append(Form(given["formaction"], self.found[-1].method, self.found[-1].fields))
        if tag in {"input", "textarea", "select"} and self.found and given.get("name"):
            self.found[-1].fields.append(Field(given["name"], kind, given.get("value", "")))


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path / "data", KEYLEDGER_RATE_LIMIT="0")
    service.start()
    yield service
    assert service.stop() == 0


def test_secrets_entered_in_the_wrong_field_are_not_stored(running: Service) -> None:
    owner = signed_in(running, running.account("owner@example.org", "owner", PASSWORD))
    nobody = signed_in(running, None)
    headers = {"Authorization": f"Bearer {running.key('keyledger:admin')}"}

    def made() -> Any:
        return requests.post(f"{running.url}/v1/keys", json={"name": "T"}, headers=headers, timeout=60).json()

    canary: str = made()["api_key"]
    secrets = {canary[:-7], canary[10:36], CANARY_PASSWORD, PASSWORD}
    addresses: list[str] = []
    pages = [route.removeprefix("GET ") for route in PAGES if route.startswith("GET ")]
    for path, visitor, text in product(pages, (owner, nobody), (canary, canary[:-1])):
        for number, name in _fields(visitor, path.replace("<key_id>", made()["id"])):
            # Most forms change their key, so each field gets a separate one.
            form = _forms(visitor, path.replace("<key_id>", made()["id"]))[number]
            answer = _fill(visitor, form, name, text)
            addresses += [answer.url, unquote(answer.headers.get("Location", ""))]
    assert len(addresses) > 80
    assert not any(secret in address for secret in secrets for address in addresses)

    until(lambda: running.run("audit", "check").returncode == 0)
    kept = [path.read_bytes() for path in running.data_dir.rglob("*") if path.is_file()]
    with connect(EmbeddedServer.in_directory(running.data_dir).url) as store:
        kept += [*everything(store), running.output.encode()]
    for secret in secrets:
        assert not any(secret.encode() in content for content in kept), secret


def _forms(visitor: Visitor, path: str) -> list[Form]:
    fields = {"email": "owner@example.org"} if path in {"/accounts/person", "/accounts/password"} else {}
    answer = ask(visitor, "GET", path, fields)
    # The sign-out form is on every page.
    return [form for form in Forms(answer.text, path).found if not form.action.endswith("/sign-out")]


def _fields(visitor: Visitor, path: str) -> list[tuple[int, str]]:
    """The text fields, each with the number of its form."""
    return [
        (number, field.name)
        for number, form in enumerate(_forms(visitor, path))
        for field in form.fields
        if field.kind in _TYPED
    ]


def _fill(visitor: Visitor, form: Form, name: str, text: str) -> requests.Response:
    """Submits a form with the text in one field and the canary in its password fields."""
    sent = {field.name: field.value for field in form.fields}
    sent |= {field.name: CANARY_PASSWORD for field in form.fields if field.kind == "password"}
    return ask(visitor, form.method.upper(), form.action, sent | {name: text})
