"""The documentation matches the code: tables, links and names. Nothing is run."""

import os
import re
import tomllib
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml

from services.doctor.examination import all_checks
from services.keys.model.token import mint
from services.keys.verification.verifier import CODES
from services.runtime.manifests import MANIFESTS
from services.runtime.metrics import metric_rows
from shared.identity import ROLES
from shared.settings import SETTINGS, Settings
from shared.store.connections import DURABLE
from tests.documents import (
    ALERTS,
    DOCS,
    DOCUMENTS,
    ROOT,
    anchor,
    blocks,
    commands,
    headings,
    prose,
    quoted,
    stated,
    tables,
)

CODE = sorted([*ROOT.glob("services/**/*.py"), *ROOT.glob("shared/**/*.py")])
TABLES = tables()
# The runbooks that pages and error messages refer to.
NAMED_BY_PAGES = {"A key leaked", "The ledger went backwards", "Someone cannot sign in"}

PARTS = ("_bucket", "_sum", "_count")  # of a histogram
UNITS = ("events", "seconds")  # of a lag

by_name = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def all_quoted() -> set[str]:
    """Returns the inline code and the lines of the code blocks of all documents."""
    return {
        line
        for document in DOCUMENTS
        for text in [*quoted(document), *(block.code for block in blocks(document))]
        for line in text.replace("\\\n", " ").splitlines()
    }


def in_code(pattern: str) -> set[str]:
    """Returns all matches of a pattern in the source code."""
    return {found for file in CODE for found in re.findall(pattern, file.read_text())}


@pytest.mark.parametrize(("document", "table"), TABLES)
def test_each_generated_table_matches_the_code(document: str, table: str) -> None:
    right = TABLES[document, table]
    assert stated(document, table) == right, (
        f"`python -m tests.documents` writes this into docs/{document}:\n{right}"
    )


def test_the_settings_table_has_exactly_the_settings_that_the_code_reads() -> None:
    read = in_code(r"\bsettings\.(\w+)\b") | {"log_format"}  # which `telemetry` reads before all others
    assert {name.lower() for name in SETTINGS} <= read
    named = in_code(r"KEYLEDGER_([A-Z_]*[A-Z])\b") - {*SETTINGS}
    assert named <= set(), named


def test_documented_defaults_are_the_actual_defaults() -> None:
    literal = {name: re.fullmatch(r"`([^`]+)`", setting.default) for name, setting in SETTINGS.items()}
    written = {f"KEYLEDGER_{name}": found[1] for name, found in literal.items() if found}
    assert len(written) == 10
    with patch.dict(os.environ, clear=True):
        unset = Settings.from_environment()
    with patch.dict(os.environ, written, clear=True):
        assert Settings.from_environment() == unset


@by_name
def test_every_relative_link_has_a_target(document: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(document))
    for link in links:
        if link.startswith("https://"):
            continue
        path, _, place = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        if place:
            assert place in map(anchor, headings(target)), link


def test_every_documented_setting_exists() -> None:
    named = {name for text in all_quoted() for name in re.findall(r"KEYLEDGER_([A-Z_]+[A-Z])", text)}
    # Each setting can also be read from a file, which is named with the suffix `_FILE`.
    unknown = {name for name in named - {*SETTINGS} if name.removesuffix("_FILE") not in SETTINGS}
    assert unknown <= {"URL", "KEY"}  # of a service in a recipe, which has a key of its own


def test_every_documented_command_exists_with_its_options() -> None:
    known = dict(commands())
    lines = [line for text in all_quoted() for line in re.findall(r"(?<!\w)keyledger [a-z][^|;)#$]*", text)]
    assert len(lines) >= 40
    for line in lines:
        name = max((name for name in known if f"{line} ".startswith(f"{name} ")), key=len, default=None)
        assert name, line
        options = {option for each in known[name].params for option in each.opts} | {"--help"}
        assert set(re.findall(r"(?<!\S)-[-\w]+", line)) <= options, line


def test_every_documented_make_target_exists() -> None:
    targets = set(re.findall(r"(?m)^(\w+):", (ROOT / "Makefile").read_text()))
    named = {name for text in all_quoted() for name in re.findall(r"^make (\w+)", text)}
    assert named <= targets
    assert {"run", "test", "check", "drill"} <= named


def test_every_documented_compose_service_exists() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    named = {
        name for text in all_quoted() for name in re.findall(r"docker compose run --rm (?:-T )?(\S+)", text)
    }
    assert {"web-1"} <= named <= set(services)


def test_exactly_the_existing_metrics_are_documented() -> None:
    known = {row.name: row.kind for row in metric_rows(MANIFESTS)}
    named = {name for text in all_quoted() for name in re.findall(r"\bkeyledger_\w+", text)}
    parts = {f"{name}{part}" for name, kind in known.items() if kind == "histogram" for part in PARTS}
    assert known.keys() <= named <= known.keys() | parts


def test_every_metric_in_the_code_is_in_the_table() -> None:
    declared = in_code(r"(?:Gauge|Counted)\(\s*\"(keyledger_\w+)")
    rows = {row.name.removesuffix("_total") for row in metric_rows(MANIFESTS)}
    assert rows - declared == {
        f"keyledger_{it}_lag_{unit}" for it in ("projector", "audit") for unit in UNITS
    }
    assert declared <= rows


def test_every_documented_code_path_exists() -> None:
    for document in DOCUMENTS:
        for text in quoted(document):
            if re.match(r"(services|shared|tests|bench)/", text):
                assert (ROOT / text).exists(), (document, text)


def test_every_name_in_the_contributing_guide_is_in_the_file_it_mentions() -> None:
    places = re.findall(r"([^:.]+?)\s+in\s+`((?:services|shared)/[^`]+)`", prose(ROOT / "CONTRIBUTING.md"))
    led = [(name, path) for words, path in places for name in re.findall(r"`(\w+)`", words)]
    assert len(led) >= 20
    for name, path in led:
        assert re.search(rf"\b{name}\b", (ROOT / path).read_text()), (name, path)


@pytest.mark.parametrize("document", [ROOT / "README.md", DOCS / "reviewers.md"], ids=lambda path: path.name)
def test_every_bold_label_in_the_documents_appears_on_a_page(document: Path) -> None:
    pages = "\n".join(path.read_text() for path in ROOT.glob("s*/**/*.html"))
    told = [" ".join(words.split()) for words in re.findall(r"\*\*([^*]+)\*\*", prose(document))]
    assert [words for words in told if words not in pages and not words.endswith(".")] == []


def test_all_verification_codes_and_roles_are_documented() -> None:
    codes = [word for word in quoted(DOCS / "platform-developers.md") if word in CODES]
    assert set(codes) == set(CODES)
    assert {f"| `{role}` |" in prose(DOCS / "operators.md") for role in ROLES} == {True}


def test_the_documented_store_settings_are_those_that_are_checked() -> None:
    (block,) = blocks(DOCS / "operators.md", "conf")
    assert dict(line.split() for line in block.code.splitlines()) == DURABLE


def test_the_documented_secret_scanning_pattern_matches_keys() -> None:
    (block,) = blocks(DOCS / "platform-developers.md", "regex")
    assert re.fullmatch(block.code.strip(), mint("kl", "default", lambda below: below // 2).reveal())


def test_the_architecture_document_lists_every_contract_and_decision() -> None:
    text = prose(DOCS / "architecture.md")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for contract in project["tool"]["importlinter"]["contracts"]:
        assert f"- {contract['name']}\n" in text
    for decision in (DOCS / "adr").glob("*.md"):
        assert f"(adr/{decision.name})" in text


def test_each_alert_uses_existing_metrics_and_links_to_a_runbook() -> None:
    known = {row.name: row.kind for row in metric_rows(MANIFESTS)}
    known |= {f"{name}{part}": kind for name, kind in known.items() if kind == "histogram" for part in PARTS}
    places = {f"runbooks.md#{anchor(heading)}" for heading in headings(DOCS / "runbooks.md")}
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS) > 10
    for rule in ALERTS:
        metrics = re.findall(r"\bkeyledger_\w+", rule["expr"])
        assert metrics, rule["alert"]
        assert [name for name in metrics if name not in known] == [], rule["alert"]
        assert rule["annotations"]["runbook"] in places, rule["alert"]
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert re.fullmatch(r"[A-Z][^{]+\.", rule["annotations"]["summary"]), rule["alert"]


def test_every_linked_runbook_states_symptom_meaning_and_action_in_order() -> None:
    text = prose(DOCS / "runbooks.md")
    sections = {part.partition("\n")[0]: part for part in re.split(r"(?m)^## ", text)[1:]}
    linked = {rule["annotations"]["runbook"].partition("#")[2] for rule in ALERTS}
    linked |= {check.see for check in all_checks(MANIFESTS)} | {*map(anchor, NAMED_BY_PAGES)}
    assert linked <= {*map(anchor, sections)}
    for title, section in sections.items():
        assert f"- [{title}](#{anchor(title)})\n" in text
        said = [section.find(f"**{part}:**") for part in ("You see", "It means", "Do")]
        if anchor(title) in linked or max(said) >= 0:
            assert -1 < said[0] < said[1] < said[2], title


def test_each_security_promise_names_an_existing_test() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    rows = [row for row in text.splitlines() if row.startswith("| ") and "Attacker" not in row]
    named = [re.search(r"\[`(\w+)`\]\((tests/[\w/]+\.py)\) \|$", row) for row in rows]
    assert len(rows) > 20
    for row, test in zip(rows, named, strict=True):
        assert test, row
        assert f"\ndef {test[1]}(" in (ROOT / test[2]).read_text(), row
