"""The recipes that are programs, run as written."""

import importlib.util
import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tests.e2e.gateways import IDENTITY, EchoService
from tests.e2e.recipes import RECIPES, blocks, fitted, run
from tests.e2e.refusals import REFUSED, refused_tokens
from tests.e2e.test_api import Caller, Json, create
from tests.support.processes import free_port, need, until
from tests.support.service import Service

# A recipe's comment gives the expected code. A verdict may lag behind a change, so this polls.
_EXPECT = """
expect() {
    for _ in {1..200}; do
        [[ $(verify "$1" | field code) == "$2" ]] && return
        sleep 0.02
    done
    echo "not $2, but $(verify "$1")"
    return 1
}
"""


@contextmanager
def flask_service(directory: Path, keyledger: str, key: str) -> Iterator[ModuleType]:
    """The service from the recipe, as a module."""
    source = directory / "orders.py"
    source.write_text("\n\n".join(blocks("flask.md", "python")))
    spec = importlib.util.spec_from_file_location("orders", source)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEYLEDGER_URL", keyledger)
        patch.setenv("KEYLEDGER_KEY", key)
        spec.loader.exec_module(module)
    yield module
    module.keyledger.close()


@pytest.fixture(scope="module")
def admin(service: Service) -> Caller:
    return Caller(service, service.key("keyledger:admin"))


@pytest.fixture(scope="module")
def good(admin: Caller) -> Json:
    return create(admin, name="Good", scopes=["orders:read"])


@pytest.fixture(scope="module")
def orders(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    key = service.key("keyledger:keys.verify")
    with flask_service(tmp_path_factory.mktemp("flask"), service.url, key) as module:
        yield module


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[tuple[EchoService, ModuleType]]:
    """A fake Keyledger, and a service that asks it."""
    keyledger = EchoService()
    with flask_service(tmp_path, f"http://127.0.0.1:{keyledger.port}", "any") as module:
        yield keyledger, module
    keyledger.close()


def status(orders: ModuleType, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    found: int = orders.app.test_client().get("/orders", headers=headers).status_code
    return found


def test_the_decorator_accepts_a_valid_key_and_provides_its_identity(
    orders: ModuleType, good: Json, service: Service
) -> None:
    answer = orders.app.test_client().get("/orders", headers={"Authorization": f"bearer {good['api_key']}"})
    assert answer.json == {"orders": [], "of": service.workspace, "asked_by": good["id"]}


def test_the_decorator_refuses_every_invalid_key(orders: ModuleType, admin: Caller, good: Json) -> None:
    tokens = refused_tokens(admin, good)
    assert {reason: status(orders, token) for reason, token in tokens.items()} == REFUSED


def test_the_decorator_answers_503_while_the_store_is_stopped(
    orders: ModuleType, service: Service, good: Json
) -> None:
    store = service.pid("valkey-server")
    assert status(orders, good["api_key"]) == 200
    os.kill(store, signal.SIGSTOP)
    try:
        until(lambda: status(orders, good["api_key"]) != 200, what="the first refusal")
        assert [status(orders, good["api_key"]) for _ in range(2)] == [503] * 2
    finally:
        os.kill(store, signal.SIGCONT)
    until(lambda: status(orders, good["api_key"]) == 200, what="getting in again")


@pytest.mark.parametrize(
    ("told", "body"),
    [
        (200, b""),
        (200, b"yes"),
        (200, b"null"),
        (200, b'["valid"]'),
        (200, b'{"valid": "true"}'),
        (200, b'{"valid": 1}'),
        (201, b'{"valid": true}'),
        (302, b'{"valid": true}'),
        (401, b'{"valid": true, "code": "VALID"}'),
        (429, b'{"valid": true}'),
        (503, b'{"valid": true}'),
    ],
)
def test_the_decorator_accepts_only_a_well_formed_valid_verdict(
    fake: tuple[EchoService, ModuleType], told: int, body: bytes
) -> None:
    keyledger, orders = fake
    keyledger.status, keyledger.body = told, body
    keyledger.headers["Location"] = "/elsewhere"
    assert status(orders, "any") == 503
    assert len(keyledger.seen) == 1
    keyledger.status, keyledger.body = 200, b'{"valid": true, "workspace": "w", "key_id": "k"}'
    assert status(orders, "any") == 200


def test_the_decorator_answers_503_without_keyledger(tmp_path: Path) -> None:
    with flask_service(tmp_path, f"http://127.0.0.1:{free_port()}", "any") as orders:
        assert status(orders, "any") == 503


def test_the_curl_recipe_works_as_written(service: Service, tmp_path: Path) -> None:
    need(shutil.which("curl"), "curl")
    address, *steps = blocks("curl.md", "sh")
    told = re.compile(r'(?m)^verify ("\$\w+") +# ([A-Z]+)\b.*$')
    script = fitted(address, {"http://127.0.0.1:8000": service.url}) + told.sub(
        r"expect \1 \2", "".join(steps)
    )
    assert script.count("\nexpect ") == 7
    printed = run(service, _EXPECT + script, tmp_path, TMPDIR=str(tmp_path))
    answers = list(_documents(printed))
    assert [event["type"] for event in answers[-1]["events"]] == [
        "KeyCreated",
        "KeyRotated",
        "KeyToggled",
        "KeyToggled",
        "KeyRevoked",
    ]
    assert not list(tmp_path.iterdir())


def _documents(text: str) -> Iterator[Json]:
    decoder = json.JSONDecoder()
    while text := text.lstrip():
        document, end = decoder.raw_decode(text)
        yield document
        text = text[end:]


def test_traefik_forwards_the_same_identity_headers_as_the_other_gateways() -> None:
    static, dynamic = (yaml.safe_load(block) for block in blocks("traefik.md", "yaml"))
    assert static["entryPoints"]["web"]["http"]["aliasHeadersStrategy"] == "delete"
    made, router = dynamic["http"]["middlewares"], dynamic["http"]["routers"]["orders"]
    assert list(made) == router["middlewares"]
    assert made["keyledger"]["forwardAuth"]["authResponseHeaders"] == IDENTITY
    caddyfile, _ = blocks("caddy.md", "caddyfile")
    assert f"copy_headers {' '.join(IDENTITY)}\n" in caddyfile


def test_the_overview_links_to_every_recipe() -> None:
    led = set(re.findall(r"\]\((\w+\.md)\)", (RECIPES / "README.md").read_text()))
    assert led == {path.name for path in RECIPES.glob("*.md")} - {"README.md"}
