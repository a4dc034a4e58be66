"""`make bench`: every figure beside its floor in the same run."""

import os
import platform
from itertools import chain

from bench import append, project, replay, verify


def main() -> None:
    """Prints a line a figure."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    for figure in chain(append.figures(), project.figures(), replay.figures(), verify.figures()):
        print(figure, flush=True)


main()
