"""The README, the guides and the runbooks, followed word for word on a separate Keyledger."""

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
import requests

from services.audit.components import AuditComponents
from services.keys.model.token import parse
from shared.clock import rfc3339
from tests.documents import DOCS, DOCUMENTS, ROOT, blocks
from tests.e2e.gateways import EchoService, nginx, running
from tests.e2e.recipes import fitted, run
from tests.support.processes import until
from tests.support.service import Service

README = ROOT / "README.md"
RUNBOOKS = DOCS / "runbooks.md"
TRY_NGINX = DOCS / "recipes" / "nginx.md"
ANY_ID = "3fA9bQ27LmZ0"
ANY_KEY = "kl_…"
ANY_TIME = "2026-11-23T14:03:00Z"
ANY_VKEY = "keyledger-audit+0a1b2c3d+AbCd…"

# Lines with these prefixes are not run here, for the reason given.
ELSEWHERE = {
    "make ": "the Makefile has the target, and `make test` runs this",
    "git ": "this is the clone",
    "keyledger up": "it runs already",
    "uvx ": "test_package.py runs this",
}
CURL = "recipes/curl.md"  # is run by test_recipes.py


class Guide(NamedTuple):
    """A document that is followed from its first command to its last, and the expected output."""

    document: Path
    places: Mapping[str, str]  # what everybody has to replace, by the name of what it is replaced with here
    printed: list[str]  # what is printed, in this order


URL = {"http://127.0.0.1:8000": "url"}
GUIDES = [
    Guide(
        README,
        {**URL, ANY_KEY: "key"},
        ['"name":"Data Sync Script"', '"api_key":"kl_', '"valid":true', '"code":"VALID"'],
    ),
    Guide(
        DOCS / "platform-developers.md",
        {**URL, ANY_KEY: "key", ANY_ID: "key_id", ANY_TIME: "time"},
        [
            '"api_key":"kl_',
            '"keys":',
            '"code":"VALID"',
            '"status":"inactive"',
            '"name":"Nightly sync"',
            '"api_key":"kl_',
            '"type":"KeyToggled"',
            '"last_used_at":',
            '"hint":',
            '"status":"revoked"',
            '"api_key":"kl_',
            '"notice":"The whole key was in the first answer',
            '"name":"Seen at once"',
        ],
    ),
    Guide(
        DOCS / "reviewers.md",
        {
            **URL,
            ANY_KEY: "key",
            ANY_ID: "key_id",
            ANY_TIME: "time",
            ANY_VKEY: "public_key",
            "--role auditor": "auditor",
        },
        [
            "Added auditor@example.org to “default” as auditor",
            '"entries":',
            '"type":"KeyRevoked"',
            '"valid":true',
            '"standing":"present"',
            "keyledger-audit+",
            "the export is intact",
            "the export is intact",
            "keyledger audit checkpoint v1",
        ],
    ),
    Guide(
        DOCS / "operators.md",
        {**URL, "--role owner": "owner", "--role developer --workspace acme": "developer"},
        [
            "Added you@example.org to “default” as owner",
            "Added ann@example.org to “acme” as developer",
            '"status":"ok"',
            '"status":"ready"',
            "keyledger_ledger_position",
            "the audit log is intact",
            "equal",
            "the audit log is intact",
        ],
    ),
]

# The expected output and the placeholders to replace, by heading.
TROUBLES = {
    "Keyledger is not ready": (['"status":"ready"'], URL),
    "Keyledger needs attention": (['"status":"ok"'], URL),
    "A key leaked": (["is disabled.\nkl_", "is revoked."], {ANY_ID: "key_id"}),
    "The views are behind": (["0 events", "No keys are parked", "equal", "were rebuilt"], {}),
    "The audit log is behind": (["jobs waiting"], {}),
    "The audit log is not intact": (["log is intact", "export is intact", "search index is complete"], {}),
    "The store or a disk is full": (["Use%", "/store"], {}),
    "A clock is wrong": (["UTC"], {}),
    "Someone cannot sign in": (["owner@example.org", "owner@example.org is enabled"], {}),
}


@pytest.fixture(scope="module")
def keyledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A Keyledger that the documents may change freely, with an owner and a revoked key."""
    service = Service(tmp_path_factory.mktemp("guides") / "data")
    service.start()
    service.account("owner@example.org", "owner", "a long password")
    until(lambda: requests.get(f"{service.url}/statusz", timeout=60).ok, what="that all is well")
    run(service, f"keyledger key revoke {id_of(service.key())} --reason leaked", service.data_dir)
    yield service
    assert service.stop() == 0


@pytest.fixture
def own(keyledger: Service) -> dict[str, str]:
    """The values for the documents' placeholders."""
    key = keyledger.key("orders:read", name="Data Sync Script")
    with keyledger.components() as components:
        public_key, head = (
            str(components.of(AuditComponents).signer.public_key),
            components.shared.ledger.head().position,
        )
        until(lambda: components.of(AuditComponents).log.last().position >= head, what="the audit log")
        created_at = rfc3339(components.shared.ledger.read(head - 1, 1)[0].at)
        components.of(AuditComponents).log.close()
    typed = "--password-stdin <<< 'a long password'"
    return {
        "url": keyledger.url,
        "key": key,
        "key_id": id_of(key),
        "time": created_at,
        "public_key": public_key,
        "owner": f"--role owner {typed}",
        "developer": f"--role developer --workspace acme {typed}",
        "auditor": f"--role auditor {typed}",
    }


def id_of(key: str) -> str:
    """The id of a key, from its token."""
    return parse(key).id


def commands(document: Path, heading: str | None = None) -> str:
    """The shell commands of a document, or of one of its sections."""
    lines = [
        line
        for block in blocks(document, "sh")
        if heading in {None, block.heading}
        for line in block.code.splitlines()
        if not line.startswith(tuple(ELSEWHERE))
    ]
    return "\n".join(lines)


def assert_printed(printed: str, expected: list[str]) -> None:
    """Asserts that the output contains all expected parts, in order."""
    compact = printed.replace('": ', '":').replace(', "', ',"')
    at = 0
    for part in expected:
        found = compact.find(part, at)
        assert found >= 0, f"{part!r} is not behind the rest in\n{compact}"
        at = found + len(part)


@pytest.mark.drill
@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.document.stem)
def test_a_guide_works_as_written(
    guide: Guide, keyledger: Service, own: dict[str, str], tmp_path: Path
) -> None:
    # Like the clone in which Keyledger was started.
    (tmp_path / ".venv").symlink_to(Path(sys.prefix))
    (tmp_path / "data").symlink_to(keyledger.data_dir)
    places = {written: own[name] for written, name in guide.places.items()}
    script = fitted(commands(guide.document), places)
    assert_printed(run(keyledger, script, tmp_path), guide.printed)


@pytest.mark.drill
@pytest.mark.parametrize("heading", TROUBLES)
def test_a_runbook_works_as_written(
    heading: str, keyledger: Service, own: dict[str, str], tmp_path: Path
) -> None:
    expected, places = TROUBLES[heading]
    script = commands(RUNBOOKS, heading)
    if "earlier.jsonl" in script:
        run(keyledger, "keyledger audit export earlier.jsonl", tmp_path)
    for written, name in places.items():
        assert written in script
        script = script.replace(written, own[name])
    assert_printed(run(keyledger, script, tmp_path, PUBLIC_KEY=own["public_key"]), expected)


def test_the_nginx_recipe_works_as_written(keyledger: Service, tmp_path: Path) -> None:
    upstream = EchoService()
    try:
        with running(nginx, tmp_path, keyledger.port, upstream.port) as port:
            script = fitted(commands(TRY_NGINX), {"127.0.0.1:80": f"127.0.0.1:{port}"})
            told = re.compile(r"(?m)^ask(.*?) +# (\d{3}): .*$")
            assert len(told.findall(script)) == 3
            run(keyledger, _EXPECT + told.sub(r"expect \2\1", script), tmp_path)
    finally:
        upstream.close()


# A recipe's comment gives the expected status. A verdict may lag behind a change, so this polls.
_EXPECT = """
expect() {
    local wanted=$1 found
    shift
    for _ in {1..200}; do
        found=$(ask "$@")
        [[ $found == "$wanted" ]] && return
        sleep 0.02
    done
    echo "not $wanted, but $found"
    return 1
}
"""


def test_every_documented_command_is_run_by_a_test() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    elsewhere = {*re.findall(r"follow\(\s*[\w.]+,\s*\"([^\"]+)\"", tests)}
    followed = {guide.document for guide in GUIDES} | {TRY_NGINX, DOCS / CURL}
    for document in set(DOCUMENTS) - followed:
        for block in blocks(document, "sh"):
            left = [line for line in block.code.splitlines() if not line.startswith(tuple(ELSEWHERE))]
            assert not left or block.heading in elsewhere | {*TROUBLES}, (document, block.heading)


def test_code_blocks_use_only_known_languages() -> None:
    used = {block.language for document in DOCUMENTS for block in blocks(document)}
    # Diagrams have no language; Compose and cron need more than a test environment has.
    assert used <= {"", "sh", "nginx", "caddyfile", "yaml", "python", "regex", "conf", "console", "cron"}
