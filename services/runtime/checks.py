"""What a web process reports of itself: to `/readyz` and `/statusz`, in its figures, and in the log.

The checks are made beside the requests: a request for a report costs the store and the database nothing, and
waits for neither.
"""

import time
from collections.abc import Mapping, Sequence
from threading import Event as Stop

import structlog

from services.doctor.examination import CHECKS, CheckResult, Concern, look
from services.doctor.findings import Level
from services.doctor.installation import RunningInstallation
from services.runtime.components import Container
from shared.web.health import Report

_FRESH_S = 10.0  # for which a report is trusted; looking takes less, unless something hangs
_SEVERITY = (Level.OK, Level.SKIPPED, Level.WARNING, Level.PROBLEM)
_FAILS_IF = {check.name: check.fails_if for check in CHECKS}

_log = structlog.get_logger(__name__)


class CheckRunner:
    """Makes the checks that concern somebody again and again, and keeps what they found last."""

    def __init__(self, components: Container, concern: Concern, every_s: float) -> None:
        self._components = components
        self._concern = concern
        self._every_s = every_s
        self._levels: Mapping[str, Level] = {}
        self._looked_at = float("-inf")
        self._logged: set[str] = set()  # the checks whose failure is in the log, and not its end

    def report(self) -> Report:
        """What was found last, without details. Checks that don't finish are a problem themselves."""
        if time.monotonic() - self._looked_at > self._every_s + _FRESH_S:
            return Report({"checks": Level.PROBLEM}, {"checks": "The checks don't finish."})
        levels = self._levels
        return Report(
            levels, {name: _FAILS_IF[name] for name, level in levels.items() if level is Level.PROBLEM}
        )

    def run(self, stop: Stop) -> None:
        """Looks until told to stop, and logs each check that fails twice in a row, and its end.

        A process that starts hasn't followed the ledger yet at its first look, which is no fault.
        """
        while not stop.is_set():
            try:
                self.look()
            except Exception:  # noqa: BLE001  # whatever one check raises, the next look is made all the same
                _log.exception("the checks could not be made")
            stop.wait(self._every_s)

    def look(self) -> None:
        """Looks once."""
        settings, url = self._components.settings, self._components.store_url
        told = list(look(RunningInstallation(settings, url, components=self._components), self._concern))
        before, self._levels = self._levels, _worst(told)
        self._looked_at = time.monotonic()
        for name, finding in told:
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


def _worst(told: Sequence[CheckResult]) -> dict[str, Level]:
    """Of each check the worst level."""
    levels: dict[str, Level] = {}
    for name, finding in told:
        levels[name] = max(levels.get(name, Level.OK), finding.level, key=_SEVERITY.index)
    return levels
