"""How the benchmarks measure and print: every figure beside its floor in the same run."""

import gc
import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

_ROUNDS = 5


class Figure(NamedTuple):
    """A rate beside the rate of the bare work that it cannot do without, per second."""

    name: str
    rate: float
    floor: float

    @property
    def ratio(self) -> float:
        """How much of the floor is reached."""
        return self.rate / self.floor

    def __str__(self) -> str:
        return (
            f"{self.name:<44} {self.rate:>12,.0f}/s   floor {self.floor:>12,.0f}/s   ratio {self.ratio:.2f}"
        )


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
