"""The command that checks the installation."""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from textwrap import wrap

import click

from services.cli.terminal import json_option
from services.doctor.examination import CheckResult, all_checks, examine
from services.runtime.manifests import MANIFESTS
from services.runtime.output import echo, echo_coloured
from shared.process.telemetry import escaped
from shared.service.checks import Level

_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "red", Level.SKIPPED: "cyan"}
_LEVEL_WIDTH = 9
_CHECK_WIDTH = 16
_NARROWEST = 30  # columns for the text, to be worth it
_INDENT = " " * (_LEVEL_WIDTH + _CHECK_WIDTH)


@click.command("doctor")
@json_option
def doctor_command(as_json: bool) -> None:
    """Check this installation and suggest fixes. Nothing is changed.

    Exits with status 1 if there is a problem.
    """
    results = []
    for each in examine(all_checks(MANIFESTS)):
        results.append(each)
        if not as_json:
            _print(each)
    counts = Counter(finding.level for _, finding in results)
    if as_json:
        rows = [_as_json(each) for each in results]
        echo(json.dumps({"ok": not counts[Level.PROBLEM], "findings": rows}))
    else:
        echo(f"\n{_summary(counts)}")
    sys.exit(1 if counts[Level.PROBLEM] else 0)


def _print(result: CheckResult) -> None:
    check, finding = result
    mark = click.style(f"{finding.level:<{_LEVEL_WIDTH}}", fg=_COLOURS[finding.level], bold=True)
    echo_coloured(f"{mark}{check:<{_CHECK_WIDTH}}{_hanging(escaped(finding.found))}")
    if finding.advice:
        echo_coloured(f"{_INDENT}{_hanging(f'→ {escaped(finding.advice)}')}")


def _hanging(text: str) -> str:
    """Wraps a text for a terminal; elsewhere one line is easier to search."""
    on_terminal = sys.stdout and sys.stdout.isatty()  # None where the caller closed it
    room = shutil.get_terminal_size().columns - len(_INDENT) if on_terminal else 0
    if room < _NARROWEST:
        return text
    return f"\n{_INDENT}".join(wrap(text, room, break_long_words=False, break_on_hyphens=False))


def _summary(counts: Mapping[Level, int]) -> str:
    bad = [_counted(counts[level], level) for level in (Level.PROBLEM, Level.WARNING) if counts[level]]
    found = " and ".join(bad) or "No problems found"
    unmade = counts[Level.SKIPPED]
    return f"{found}; {_counted(unmade, 'check')} couldn't run." if unmade else f"{found}."


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _as_json(result: CheckResult) -> dict[str, str | None]:
    check, finding = result
    return {"check": check, "level": finding.level, "found": finding.found, "advice": finding.advice}
