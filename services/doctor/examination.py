"""All checks, one after the other: one that fails stops none of the others."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

from redis import RedisError

from services.doctor import access, audit, clock, disk, files, ledger, queue, store
from services.doctor.environment import read_settings
from services.doctor.findings import Finding, SkippedError, problem, skipped
from services.doctor.installation import Installation, visited
from services.doctor.settings import check_settings
from services.doctor.versions import check_versions
from shared.errors import AdvisedError
from shared.events import UnreadableEventError

Check: TypeAlias = Callable[[Installation], Iterator[Finding]]

# By name, in the order in which they are told.
CHECKS: Mapping[str, Check] = {
    "settings": check_settings,
    "versions": check_versions,
    "files": files.check_files,
    "disk": disk.check_disk,
    "store": store.check_store,
    "access": access.check_access,
    "durability": store.check_durability,
    "replicas": store.check_replicas,
    "memory": store.check_memory,
    "ledger": ledger.check_ledger,
    "views": ledger.check_views,
    "database": audit.check_database,
    "audit log": audit.check_audit_log,
    "integrity": audit.check_integrity,
    "checkpoints": audit.check_checkpoints,
    "queue": queue.check_queue,
    "worker": queue.check_worker,
    "clock": clock.check_clock,
    "database clock": clock.check_database_clock,
}


class Told(NamedTuple):
    """A finding, and the name of the check that made it."""

    check: str
    finding: Finding


def examine() -> Iterator[Told]:
    """Looks at what the environment names, and tells each thing as soon as it is found."""
    with visited(*read_settings()) as installation:
        for name, check in CHECKS.items():
            yield from (Told(name, finding) for finding in _made(check, installation))


def _made(check: Check, installation: Installation) -> Iterator[Finding]:
    try:
        yield from check(installation)
    except SkippedError as error:
        yield skipped(f"not checked: {error}")
    except (RedisError, AdvisedError, OSError) as error:
        yield problem(f"cannot be told: {error}", "Mend what that says, and run this again.")
    except (ValueError, LookupError, UnreadableEventError) as error:  # its words may tell what is kept there
        yield problem(
            f"the answer is none that this version can read ({type(error).__name__})",
            "See that store, database and Keyledger belong together, and run the version that wrote them.",
        )
