"""How the benchmarks measure and print: every figure beside its floor in the same run."""

import gc
import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

_ROUNDS = 5


class Figure(NamedTuple):
    """A figure; where there is such, beside that of the bare work that it needs, of the same run."""

    name: str
    value: float
    floor: float | None = None
    unit: str = "/s"

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Name, figure, floor, ratio."""
        if self.floor is None:
            return self.name, self._told(self.value), "", ""
        return self.name, self._told(self.value), self._told(self.floor), f"{self.value / self.floor:.2f}"

    def _told(self, value: float) -> str:
        digits = 0 if value >= 100 or self.unit == "/s" else 2
        return f"{value:,.{digits}f}{'' if self.unit == '/s' else ' '}{self.unit}"

    def __str__(self) -> str:
        name, figure, floor, ratio = self.cells
        beside = f"   floor {floor:>14}   ratio {ratio}" if floor else ""
        return f"{name:<64} {figure:>14}{beside}"


def timed(work: Callable[[], object]) -> float:
    """Seconds that it took."""
    gc.collect()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def paired(name: str, count: int, work: Callable[[], object], floor: Callable[[], object]) -> Figure:
    """Both in turn, several times; the medians. `count` things are done by each call of either."""
    pairs = [(timed(floor), timed(work)) for _ in range(_ROUNDS)]
    return Figure(name, count / median(done for _, done in pairs), count / median(bare for bare, _ in pairs))
