"""All checks, and the examination that runs them one after the other: one that fails stops no other."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from redis import RedisError

from services.doctor.access import check_access
from services.doctor.disk import check_disk
from services.doctor.environment import read_settings
from services.doctor.files import check_files
from services.doctor.ledger import check_clock, check_ledger
from services.doctor.settings import check_settings, check_versions
from services.doctor.store import check_durability, check_memory, check_replicas, check_store, check_writes
from shared.errors import UserFacingError
from shared.eventstore.envelope import UnreadableEventError
from shared.service.checks import (
    CLOCK,
    EVERYWHERE,
    FULL,
    LEDGER,
    NOT_READY,
    READY,
    Check,
    Concern,
    Finding,
    Look,
    SkippedError,
    problem,
    skipped,
)
from shared.service.installation import Installation, examined
from shared.service.manifest import Manifest

# In the order in which they are reported; those of the services come before the last. A check belongs to
# readiness if its problem stops sign-ins, verdicts or commands. What only delays pages or the audit log must
# not, because a load balancer would stop the verdicts too.
_CHECKS = (
    Check("settings", check_settings, Concern.DOCTOR, "A setting isn't valid, or is a risk.", NOT_READY),
    Check("versions", check_versions, Concern.DOCTOR, "Never.", NOT_READY),
    Check("files", check_files, EVERYWHERE, "A file with a secret is missing or open to others.", NOT_READY),
    Check("disk", check_disk, EVERYWHERE, "A disk that Keyledger writes to is nearly full.", FULL),
    Check(
        "store", check_store, READY | EVERYWHERE, "The store doesn't answer, or could lose events.", NOT_READY
    ),
    Check("writes", check_writes, Concern.WEB | EVERYWHERE, "The store takes no writes.", NOT_READY),
    Check(
        "access",
        check_access,
        EVERYWHERE,
        "Never. It warns if others can use the store without a password.",
        NOT_READY,
    ),
    Check(
        "durability",
        check_durability,
        EVERYWHERE,
        "The store could lose events, or a write to its disk failed.",
        FULL,
    ),
    Check(
        "replicas",
        check_replicas,
        EVERYWHERE,
        "Fewer replicas are connected than must have each event.",
        NOT_READY,
    ),
    Check("memory", check_memory, EVERYWHERE, "The store is out of memory.", FULL),
    Check("ledger", check_ledger, EVERYWHERE, "Events are missing from the ledger.", LEDGER),
)
_LAST = Check("clock", check_clock, EVERYWHERE, "Clocks are over 5 s apart, or one was set back.", CLOCK)


def all_checks(manifests: Sequence[Manifest]) -> Sequence[Check]:
    """Returns the checks of the installation itself and of each service, in the order of their report."""
    return (*_CHECKS, *(check for manifest in manifests for check in manifest.checks()), _LAST)


class CheckResult(NamedTuple):
    """A finding, and the name of the check that made it."""

    check: str
    finding: Finding


def examine(checks: Sequence[Check]) -> Iterator[CheckResult]:
    """Examines the installation that the environment names, and yields each finding as soon as it is made."""
    with examined(*read_settings()) as installation:
        yield from look(installation, checks, Concern.DOCTOR)


def look(installation: Installation, checks: Sequence[Check], concern: Concern) -> Iterator[CheckResult]:
    """Runs the checks that belong to a concern."""
    for check in checks:
        if concern & check.concerns:
            yield from (CheckResult(check.name, finding) for finding in _made(check.look, installation))


def _made(check: Look, installation: Installation) -> Iterator[Finding]:
    try:
        yield from check(installation)
    except SkippedError as error:
        yield skipped(f"not checked: {error}")
    except (RedisError, UserFacingError, OSError) as error:
        yield problem(f"the check failed: {error}", "Fix that, and run this again.")
    except (ValueError, LookupError, UnreadableEventError) as error:  # its message may contain stored data
        yield problem(
            f"this version can't read the answer ({type(error).__name__})",
            "Check that store, database and Keyledger belong together, and run the version that wrote them.",
        )
