"""Whether all that a web process needs is well: for `/readyz`, the metrics and the log."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Event as Stop

import structlog
from redis import RedisError

from services.audit.database import AuditDatabaseError
from services.composition import Parts
from services.parts import now_ms
from shared.connections import STORE_ROOM
from shared.disk import shortage
from shared.lag import lag_of
from shared.ledger import Checkpoint

_SKEW_MS = 5_000  # that clocks may be apart
_LAPSE_S = 2.0  # for which a busy process may read the ledger for each verdict
_LOOK_S = 2.0  # between two looks for the log

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Checks:
    """What has to be so for Keyledger to do its work, asked now."""

    parts: Parts

    def troubles(self) -> dict[str, str | None]:
        """By the name of each check, what is wrong; None where nothing is."""
        away = _away(self.parts)
        found = {"store": away or _asked(_memory, self.parts)}
        found |= {name: check(self.parts) for name, check in _HERE.items()}
        for name, check in _IN_STORE.items():
            found[name] = _UNKNOWN if away else _asked(check, self.parts)
        return found

    def run(self, stop: Stop) -> None:
        """Tells the log of each check that begins to fail, and of its end, until told to stop."""
        failing: dict[str, str] = {}
        while not stop.wait(_LOOK_S):
            now = {name: trouble for name, trouble in self.troubles().items() if trouble is not None}
            for name in now.keys() - failing.keys():
                _log.error("not ready", check=name, reason=now[name])
            for name in failing.keys() - now.keys():
                _log.info("ready again", check=name)
            failing = now


def _away(parts: Parts) -> str | None:
    try:
        parts.store.ping()
    except RedisError as error:
        reason = str(error).rstrip(".")
        return f"The store does not answer ({reason}): start it, or read in its log why it ended."
    return None


def _memory(parts: Parts) -> str | None:
    memory = parts.store.info("memory")
    used = memory["used_memory"] - memory["mem_not_counted_for_evict"]
    if 0 < memory["maxmemory"] < used + STORE_ROOM:
        return (
            f"The store is out of memory: it uses {used // 1024:,} KiB, and may have "
            f"{memory['maxmemory'] // 1024:,} KiB. It takes no more events. Raise its maxmemory."
        )
    return None


def _disk(parts: Parts) -> str | None:
    return shortage(parts.settings.data_dir)


def _verifier(parts: Parts) -> str | None:
    if time.monotonic() <= parts.tail.current_until + _LAPSE_S:
        return None
    return "This web process does not follow the ledger: it reads it for every verdict, or gives none."


def _clock(parts: Parts) -> str | None:
    seconds, micros = parts.store.time()
    now = now_ms()
    apart = abs(seconds * 1000 + micros // 1000 - now)
    if apart > _SKEW_MS:
        return f"The clocks of the store and of this machine are {apart // 1000:,} s apart: set them right."
    ahead = last_event_ms(parts) - now
    if ahead > _SKEW_MS:
        return (
            f"The clock is {ahead // 1000:,} s behind the last event: it was set back. Set it right; until "
            "then each new event has the time of the last."
        )
    return None


def last_event_ms(parts: Parts) -> int:
    """When the last event happened, in ms since 1970; 0, if there is none. Raises redis.RedisError."""
    last = parts.ledger.newest()
    return last.at if last else 0


def _views(parts: Parts) -> str | None:
    return _behind(parts, parts.views.live().checkpoint(), "The projector")


def _audit(parts: Parts) -> str | None:
    return _behind(parts, parts.audit_log.last(), "The audit log")


def _behind(parts: Parts, reached: Checkpoint, who: str) -> str | None:
    if not parts.ledger.holds(reached):
        return f"{who} has an event at position {reached.position} that the ledger lacks: it went backwards."
    lag = lag_of(reached.position, parts.ledger, now_ms())
    if lag.is_long:
        return f"{who} is {lag.events} events and {lag.ms / 1000:.0f} s behind."
    return None


def _asked(check: Callable[[Parts], str | None], parts: Parts) -> str | None:
    try:
        return check(parts)
    except (RedisError, AuditDatabaseError) as error:
        return str(error)


_UNKNOWN = "This cannot be told while the store is away."
_HERE: Mapping[str, Callable[[Parts], str | None]] = {"disk": _disk, "verifier": _verifier}
_IN_STORE: Mapping[str, Callable[[Parts], str | None]] = {"clock": _clock, "views": _views, "audit": _audit}
