"""The OpenAPI description, the page generated from it, and whether every response matches it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
from openapi_spec_validator import OpenAPIV31SpecValidator
from playwright.sync_api import BrowserContext

from services.keys.model.token import parse
from shared.identity import SCOPES
from shared.web.openapi.document import operations
from tests.support.application import application
from tests.support.service import Service

Json = dict[str, Any]

_HERE = Path(__file__).parent
_SCHEMATHESIS = str(Path(sys.executable).with_name("schemathesis"))
_EXAMPLES = 20  # of each call


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A Keyledger without a rate limit."""
    running = Service(tmp_path_factory.mktemp("data"), KEYLEDGER_RATE_LIMIT="0")
    running.start()
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def document(service: Service) -> Json:
    described: Json = requests.get(f"{service.url}/openapi.json", timeout=60).json()
    return described


def test_the_openapi_description_is_valid_3_1(document: Json) -> None:
    assert document["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(document).validate()


def test_every_endpoint_is_described(document: Json) -> None:
    described = {(path, method) for path, method, _ in operations(document)}
    for rule in application().url_map.iter_rules():
        if not rule.rule.startswith("/v1/"):
            continue
        path = rule.rule.replace("<", "{").replace(">", "}")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            assert (path, method.lower()) in described


def test_every_endpoint_has_a_summary_scopes_responses_and_examples(document: Json) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names))
    for path, method, operation in operations(document):
        assert operation["summary"], (path, method)
        scopes = [scope for way in operation["security"] for scope in way.get("bearer", ())]
        assert set(scopes) <= set(SCOPES), (path, method)
        assert {"401", "403", "503"} <= set(operation["responses"]), (path, method)
        assert any(status.startswith("2") for status in operation["responses"]), (path, method)
        for content in operation.get("requestBody", {}).get("content", {}).values():
            assert content["example"], (path, method)
        for status, answer in operation["responses"].items():
            for content in answer.get("content", {}).values():
                assert content["example"], (path, method, status)


def test_the_key_schema_describes_every_field(document: Json) -> None:
    key = document["components"]["schemas"]["Key"]
    assert set(key["required"]) == set(key["properties"])
    assert key["properties"]["status"]["enum"] == ["active", "inactive", "expired", "revoked"]
    assert key["properties"]["created_at"] == key["properties"]["created_at"] | {
        "type": "string",
        "format": "date-time",
    }
    assert key["properties"]["expires_at"]["type"] == ["string", "null"]
    made = document["components"]["schemas"]["NewSecret"]
    assert set(made["properties"]) - set(made["required"]) == {"api_key", "notice"}


def test_the_docs_page_shows_every_endpoint_without_external_requests(
    service: Service, context: BrowserContext, document: Json
) -> None:
    page = context.new_page()
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.goto("/docs")
    assert page.get_by_role("heading", name="Keyledger API").is_visible()
    shown = page.locator("main").inner_text()
    for path, _, operation in operations(document):
        assert path in shown
        assert operation["summary"].rstrip(".") in shown
    page.get_by_role("link", name="Create a key").click()
    assert page.locator("#create_key").is_visible()
    assert all(url.startswith(service.url) for url in asked)
    assert complaints == []
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.drill
@pytest.mark.parametrize("scope", ["keyledger:admin", "keyledger:keys.read", None])
def test_responses_match_the_openapi_description(
    service: Service, document: Json, tmp_path: Path, scope: str | None
) -> None:
    token = service.key(scope) if scope else None
    for name in ("schemathesis.toml", "schemathesis_hooks.py"):
        shutil.copy(_HERE / name, tmp_path)
    described = tmp_path / "openapi.json"
    described.write_text(json.dumps(_closed(document)))
    run = subprocess.run(
        [
            *(_SCHEMATHESIS, "run", str(described)),
            *("--url", service.url, "--max-examples", str(_EXAMPLES), "--generation-deterministic"),
            *("--no-color", "--no-shrink", "--continue-on-failure"),
            *(("--header", f"Authorization: Bearer {token}") if token else ()),
        ],
        env=os.environ | {"KEYLEDGER_CALLER_ID": parse(token).id if token else ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr
    if token:
        alive = requests.get(
            f"{service.url}/v1/keys", headers={"Authorization": f"Bearer {token}"}, timeout=10
        )
        assert alive.status_code == 200


def _closed(document: Json) -> Json:
    """The description without unknown response fields: clients must ignore them, but we never send any."""
    for schema in document["components"]["schemas"].values():
        schema.setdefault("additionalProperties", False)
    return document
