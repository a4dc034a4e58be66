"""The checks that a web process makes again and again, for `/readyz`, `/statusz`, its metrics and its log.

They run in the background, so a request for a report costs the store and the database nothing, and waits
for neither.
"""

import time
from collections.abc import Mapping, Sequence
from threading import Event as Stop

import structlog

from services.doctor.examination import CheckResult, look
from shared.service.checks import Check, Concern, Level
from shared.service.components import Container
from shared.service.installation import Installation
from shared.web.health import Report

_FRESH_S = 10.0  # how long a report is valid; a look takes less, unless something hangs
_SEVERITY = (Level.OK, Level.SKIPPED, Level.WARNING, Level.PROBLEM)

_log = structlog.get_logger(__name__)


class CheckRunner:
    """Repeats the checks of a concern, and keeps what they found last."""

    def __init__(
        self, components: Container, checks: Sequence[Check], concern: Concern, every_s: float
    ) -> None:
        self._components = components
        self._checks = checks
        self._fails_if = {check.name: check.fails_if for check in checks}
        self._concern = concern
        self._every_s = every_s
        self._levels: Mapping[str, Level] = {}
        self._looked_at = float("-inf")
        self._logged: set[str] = set()  # the checks that the log last reported as failed

    def report(self) -> Report:
        """Returns what was found last, without details. Checks that don't finish are themselves a problem."""
        if time.monotonic() - self._looked_at > self._every_s + _FRESH_S:
            return Report({"checks": Level.PROBLEM}, {"checks": "The checks don't finish."})
        levels = self._levels
        return Report(
            levels, {name: self._fails_if[name] for name, level in levels.items() if level is Level.PROBLEM}
        )

    def run(self, stop: Stop) -> None:
        """Looks until `stop` is set, and logs each check that fails twice in a row, and when it passes again.

        At its first look, a process that starts doesn't follow the ledger yet, which is not an error.
        """
        while not stop.is_set():
            try:
                self.look()
            except Exception:  # noqa: BLE001  # whatever a check raises, the next look must happen
                _log.exception("the checks could not be made")
            stop.wait(self._every_s)

    def look(self) -> None:
        """Looks once."""
        shared = self._components.shared
        installation = Installation(shared.settings, shared.store_url, process=self._components)
        results = list(look(installation, self._checks, self._concern))
        before, self._levels = self._levels, _worst(results)
        self._looked_at = time.monotonic()
        for name, finding in results:
            again = finding.level is Level.PROBLEM and before.get(name) is Level.PROBLEM
            if again and name not in self._logged:
                _log.error("check failed", check=name, reason=finding.found)
        failing = {name for name, level in self._levels.items() if level is Level.PROBLEM}
        # What could not be checked meanwhile may still be wrong.
        skipped = {name for name, level in self._levels.items() if level is Level.SKIPPED}
        for name in self._logged - failing - skipped:
            _log.info("check passed again", check=name)
        self._logged = self._logged & (failing | skipped) | {
            name for name in failing if before.get(name) is Level.PROBLEM
        }


def _worst(results: Sequence[CheckResult]) -> dict[str, Level]:
    """Returns the worst level of each check."""
    levels: dict[str, Level] = {}
    for name, finding in results:
        levels[name] = max(levels.get(name, Level.OK), finding.level, key=_SEVERITY.index)
    return levels
