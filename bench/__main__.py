"""`make bench`: every figure beside its floor in the same run; `python -m bench list` makes those named."""

import os
import platform
import sys
from itertools import chain

from bench import append, audit, project, replay, review, verify
from bench import list as list_

_ALL = {
    "append": append,
    "project": project,
    "replay": replay,
    "list": list_,
    "verify": verify,
    "audit": audit,
    "review": review,
}


def main() -> None:
    """Prints a line a figure."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    for figure in chain.from_iterable(_ALL[name].figures() for name in sys.argv[1:] or _ALL):
        print(figure, flush=True)


main()
