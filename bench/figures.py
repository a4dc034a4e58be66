"""Measuring and formatting results, each with its floor from the same run."""

import gc
import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

_ROUNDS = 5


class Figure(NamedTuple):
    """A result and, if there is one, its floor: the same work without Keyledger."""

    name: str
    value: float
    floor: float | None = None
    unit: str = "/s"

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Name, result, floor and ratio, formatted."""
        if self.floor is None:
            return self.name, self._formatted(self.value), "", ""
        return (
            self.name,
            self._formatted(self.value),
            self._formatted(self.floor),
            f"{self.value / self.floor:.2f}",
        )

    def _formatted(self, value: float) -> str:
        digits = 0 if value >= 100 or self.unit == "/s" else 2
        return f"{value:,.{digits}f}{'' if self.unit == '/s' else ' '}{self.unit}"

    def __str__(self) -> str:
        name, figure, floor, ratio = self.cells
        comparison = f"   floor {floor:>14}   ratio {ratio}" if floor else ""
        return f"{name:<64} {figure:>14}{comparison}"


def timed(work: Callable[[], object]) -> float:
    """Returns the duration in seconds."""
    gc.collect()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def paired(name: str, count: int, work: Callable[[], object], floor: Callable[[], object]) -> Figure:
    """Measures both in turn several times, and compares the medians. Each call does `count` operations."""
    pairs = [(timed(floor), timed(work)) for _ in range(_ROUNDS)]
    return Figure(name, count / median(done for _, done in pairs), count / median(bare for bare, _ in pairs))
