"""Repeats a task in the background."""

from collections.abc import Callable
from threading import Event as Stop

import structlog

_log = structlog.get_logger(__name__)


def run_periodically(
    name: str,
    task: Callable[[], object],
    stop: Stop,
    *,
    every_s: float,
    retry_on: tuple[type[Exception], ...],
) -> None:
    """Runs a task every `every_s` seconds until `stop` is set. Logs each outage once."""
    failing = False
    while not stop.wait(every_s):
        try:
            task()
            failing = False
        except retry_on as error:
            if not failing:
                _log.warning("task interrupted; retrying", task=name, reason=str(error))
            failing = True
