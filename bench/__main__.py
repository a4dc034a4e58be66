"""`make bench`: every figure beside its floor in the same run."""

import os
import platform

from bench import append


def main() -> None:
    """Prints a line a figure."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    for figure in append.figures():
        print(figure)


main()
