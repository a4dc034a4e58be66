"""The registry of all checks, and what makes them one after the other: one that fails stops no other."""

from collections.abc import Callable, Iterator
from enum import Flag, auto
from typing import NamedTuple, TypeAlias

from redis import RedisError

from services.doctor import access, audit, clock, disk, files, ledger, queue, store
from services.doctor.environment import read_settings
from services.doctor.findings import Finding, SkippedError, problem, skipped
from services.doctor.installation import Installation, visited
from services.doctor.settings import check_settings
from services.doctor.versions import check_versions
from shared.errors import UserFacingError
from shared.eventstore.events import UnreadableEventError

Look: TypeAlias = Callable[[Installation], Iterator[Finding]]


class Concern(Flag):
    """Whom a check concerns."""

    WEB = auto()  # `/readyz` of `keyledger web`
    AUDIT_WEB = auto()  # `/readyz` of `keyledger audit web`
    STATUS = auto()  # `/statusz`, the figures and the log
    DOCTOR = auto()  # `keyledger doctor`


READY = Concern.WEB | Concern.AUDIT_WEB
EVERYWHERE = Concern.STATUS | Concern.DOCTOR


class Check(NamedTuple):
    """A function that looks at an installation, and what is shown of it to those who may not see more.

    `fails_if` holds no name, address or path: everybody who can reach `/readyz` may read it. `see` is the
    section of the runbooks that helps.
    """

    name: str
    look: Look
    concerns: Concern
    fails_if: str
    see: str


_NOT_READY = "keyledger-is-not-ready"
_FULL = "the-store-or-a-disk-is-full"
_VIEWS = "the-views-are-behind"
_AUDIT = "the-audit-log-is-behind"
_INTACT = "the-audit-log-is-not-sound"
_CLOCK = "a-clock-is-wrong"

# In the order in which they are told. What belongs to readiness stops sign-ins, verdicts or commands; what
# only makes pages or the audit log late must not, for a load balancer would stop the verdicts too.
CHECKS = (
    Check("settings", check_settings, Concern.DOCTOR, "A setting isn't valid, or is a risk.", _NOT_READY),
    Check("versions", check_versions, Concern.DOCTOR, "Never.", _NOT_READY),
    Check(
        "files",
        files.check_files,
        EVERYWHERE,
        "A file with a secret is missing or open to others.",
        _NOT_READY,
    ),
    Check("disk", disk.check_disk, EVERYWHERE, "A disk that Keyledger writes to is nearly full.", _FULL),
    Check(
        "store",
        store.check_store,
        READY | EVERYWHERE,
        "The store doesn't answer, or could lose events.",
        _NOT_READY,
    ),
    Check("writes", store.check_writes, Concern.WEB | EVERYWHERE, "The store takes no writes.", _NOT_READY),
    Check(
        "verifier",
        ledger.check_verifier,
        READY | Concern.STATUS,
        "This process doesn't follow the ledger.",
        _NOT_READY,
    ),
    Check(
        "access",
        access.check_access,
        EVERYWHERE,
        "Never. It warns of a store that is open to others.",
        _NOT_READY,
    ),
    Check(
        "durability",
        store.check_durability,
        EVERYWHERE,
        "The store could lose events, or a write to its disk failed.",
        _FULL,
    ),
    Check(
        "replicas",
        store.check_replicas,
        EVERYWHERE,
        "Fewer replicas are connected than must have each event.",
        _NOT_READY,
    ),
    Check("memory", store.check_memory, EVERYWHERE, "The store is out of memory.", _FULL),
    Check(
        "ledger",
        ledger.check_ledger,
        EVERYWHERE,
        "Events are missing from the ledger.",
        "the-ledger-went-backwards",
    ),
    Check(
        "views",
        ledger.check_views,
        EVERYWHERE,
        "The views are behind or ahead of the ledger, or keys are parked.",
        _VIEWS,
    ),
    Check(
        "expiry times",
        ledger.check_expiry_times,
        Concern.DOCTOR,
        "Never. It warns of keys whose expiry can't be shown as it is stored.",
        _VIEWS,
    ),
    Check(
        "database",
        audit.check_database,
        Concern.AUDIT_WEB | EVERYWHERE,
        "The audit log can't be read.",
        _AUDIT,
    ),
    Check(
        "audit log",
        audit.check_audit_log,
        EVERYWHERE,
        "The audit log is behind or ahead of the ledger.",
        _AUDIT,
    ),
    Check("integrity", audit.check_integrity, EVERYWHERE, "The last check of the audit log failed.", _INTACT),
    Check(
        "alarm",
        audit.check_alarm,
        EVERYWHERE,
        "The audit log was changed, cut off, replaced or restored.",
        "an-alarm-about-the-audit-log",
    ),
    Check(
        "checkpoints",
        audit.check_checkpoints,
        EVERYWHERE,
        "A signed checkpoint is missing or overdue.",
        _INTACT,
    ),
    Check("queue", queue.check_queue, EVERYWHERE, "Never. It warns of jobs that wait or failed.", _AUDIT),
    Check("worker", queue.check_worker, EVERYWHERE, "No audit worker runs.", _AUDIT),
    Check("clock", clock.check_clock, EVERYWHERE, "Clocks are over 5 s apart, or one was set back.", _CLOCK),
    Check(
        "database clock",
        clock.check_database_clock,
        EVERYWHERE,
        "The database's clock is over 5 s off.",
        _CLOCK,
    ),
)


class CheckResult(NamedTuple):
    """A finding, and the name of the check that made it."""

    check: str
    finding: Finding


def examine() -> Iterator[CheckResult]:
    """Looks at what the environment names, and tells each thing as soon as it is found."""
    with visited(*read_settings()) as installation:
        yield from look(installation, Concern.DOCTOR)


def look(installation: Installation, concern: Concern) -> Iterator[CheckResult]:
    """What each check finds that concerns somebody."""
    for check in CHECKS:
        if concern & check.concerns:
            yield from (CheckResult(check.name, finding) for finding in _made(check.look, installation))


def _made(check: Look, installation: Installation) -> Iterator[Finding]:
    try:
        yield from check(installation)
    except SkippedError as error:
        yield skipped(f"not checked: {error}")
    except (RedisError, UserFacingError, OSError) as error:
        yield problem(f"cannot be told: {error}", "Fix what it says, and run this again.")
    except (ValueError, LookupError, UnreadableEventError) as error:  # its words may tell what is kept there
        yield problem(
            f"the answer is none that this version can read ({type(error).__name__})",
            "See that store, database and Keyledger belong together, and run the version that wrote them.",
        )
