"""Reads the project's documentation, and generates its tables from the code.

Run `python -m tests.documents` to update these tables.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import yaml

from services.cli import main
from services.doctor.examination import all_checks
from services.runtime.manifests import MANIFESTS
from services.runtime.metrics import metric_rows
from shared.eventstore.codec import FORMS
from shared.eventstore.payload import Mark, marks
from shared.identity import SCOPES
from shared.service.checks import Check, Concern
from shared.settings import SETTINGS
from shared.web.errors.problems import PROBLEMS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
ALERTS: list[dict[str, Any]] = yaml.safe_load((ROOT / "deploy/alerts.yml").read_text())["groups"][0]["rules"]

_FENCED = r"^```(\w*)\n(.*?)^```$"


class Block(NamedTuple):
    """A code block and the heading above it."""

    heading: str
    language: str
    code: str


def blocks(document: Path, language: str | None = None) -> Iterator[Block]:
    """Yields a document's code blocks in order, optionally of one language only."""
    heading = ""
    for found in re.finditer(rf"(?ms)^#+ ([^\n]+)$|{_FENCED}", document.read_text()):
        heading = found[1] or heading
        if found[3] is not None and language in {None, found[2]}:
            yield Block(heading, found[2], found[3])


def prose(document: Path) -> str:
    """Returns a document without its code blocks."""
    return re.sub(f"(?ms){_FENCED}", "", document.read_text())


def headings(document: Path) -> list[str]:
    """Returns a document's headings."""
    return re.findall(r"(?m)^#+ (.+)$", prose(document))


def anchor(heading: str) -> str:
    """Returns the anchor that GitHub generates for a heading."""
    return re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-")


def quoted(document: Path) -> list[str]:
    """Returns a document's inline code."""
    return re.findall(r"`([^`\n]+)`", prose(document))


def commands(group: click.Group = main, name: str = "keyledger") -> Iterator[tuple[str, click.Command]]:
    """Yields every command and group with its full name."""
    context = click.Context(group)
    for each in group.list_commands(context):
        command, whole = group.get_command(context, each), f"{name} {each}"
        assert command, whole
        yield whole, command
        if isinstance(command, click.Group):
            yield from commands(command, whole)


def tables() -> dict[tuple[str, str], str]:
    """Returns the generated tables by document and by the comment that marks their place."""
    does_something = [
        (name, command)
        for name, command in commands()
        if not isinstance(command, click.Group) or command.invoke_without_command
    ]
    return {
        ("operators.md", "settings"): _table(
            ["setting", "default", "meaning"],
            ([f"`KEYLEDGER_{name}`", setting.default, setting.meaning] for name, setting in SETTINGS.items()),
        ),
        ("operators.md", "checks"): _table(
            ["check", "fails if", "not ready", "see"],
            (
                [f"`{each.name}`", each.fails_if, _stopped(each), f"[runbook](runbooks.md#{each.see})"]
                for each in all_checks(MANIFESTS)
                if Concern.STATUS in each.concerns
            ),
        ),
        ("operators.md", "metrics"): _table(
            ["metric", "type", "labels", "meaning", "process"],
            (
                [
                    f"`{row.name}`",
                    row.kind,
                    ", ".join(f"`{each}`" for each in row.labels) or "–",
                    row.help,
                    row.processes,
                ]
                for row in metric_rows(MANIFESTS)
            ),
        ),
        ("operators.md", "alerts"): _table(
            ["alert", "severity", "fires when", "see"],
            (
                [
                    f"`{rule['alert']}`",
                    rule["labels"]["severity"],
                    rule["annotations"]["summary"],
                    f"[runbook]({rule['annotations']['runbook']})",
                ]
                for rule in ALERTS
            ),
        ),
        ("operators.md", "commands"): _table(
            ["command", "task"], ([f"`{_usage(*each)}`", _first_words(each[1])] for each in does_something)
        ),
        ("events.md", "events"): _table(
            ["type", "schema", "subject", "title", "fields"],
            (
                [
                    f"`{form.TYPE}`",
                    str(form.SCHEMA),
                    ", ".join(f"`{subject}`" for subject in form.SUBJECTS),
                    form.TITLE,
                    ", ".join(map(_event_field, marks(form).items())) or "–",
                ]
                for form in FORMS
            ),
        ),
        ("platform-developers.md", "scopes"): _table(
            ["scope", "allows"], ([f"`{scope}`", allows] for scope, allows in SCOPES.items())
        ),
        ("platform-developers.md", "problems"): _table(
            ["status", "code", "meaning"],
            ([str(one.status), f"`{code}`", one.meaning] for code, one in PROBLEMS.items()),
        ),
    }


def _event_field(field: tuple[str, frozenset[Mark]]) -> str:
    """Formats an event field with the marks that describe its content."""
    name, of = field
    stated = [mark.name.lower() for mark in (Mark.COMPUTED, Mark.REPEATED, Mark.TIME) if mark in of]
    return f"`{name}` ({', '.join(stated)})" if stated else f"`{name}`"


def stated(document: str, table: str) -> str:
    """Returns the table that a document currently contains at a marker."""
    found = re.search(f"(?s){_placed(table, '(.*?)')}", (DOCS / document).read_text())
    assert found, f"{document} has no place for {table}"
    return found[1]


def write_tables() -> None:
    """Writes all generated tables to the documents."""
    for (document, table), right in tables().items():
        path, there = DOCS / document, stated(document, table)
        path.write_text(path.read_text().replace(_placed(table, there), _placed(table, right)))


def _placed(table: str, text: str) -> str:
    return f"<!-- {table} -->\n{text}<!-- end -->\n"


def _stopped(check: Check) -> str:
    """Returns the processes that aren't ready while the check fails."""
    processes = {Concern.WEB: "`web`", Concern.AUDIT_WEB: "`audit web`"}
    return ", ".join(name for concern, name in processes.items() if concern in check.concerns) or "–"


def _usage(name: str, command: click.Command) -> str:
    """Returns a command's usage without its options."""
    context = click.Context(command)
    arguments = (each for each in command.get_params(context) if isinstance(each, click.Argument))
    return " ".join([name, *(each.make_metavar(context) for each in arguments)])


def _first_words(command: click.Command) -> str:
    return " ".join((command.help or "").partition("\n\n")[0].split())


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [" | ".join(cell.replace("|", r"\|") for cell in row) for row in [head, *rows]]
    lines.insert(1, "|".join("---" for _ in head))
    return "".join(f"| {line} |\n" for line in lines).replace("| ---", "|---").replace("--- |", "---|")


if __name__ == "__main__":
    write_tables()
