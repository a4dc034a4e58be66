"""The ledger, and the clock that stamps its events."""

from collections.abc import Iterator

from shared.clock import now_ms
from shared.eventstore.ledger import LOG
from shared.service.checks import Finding, ok, problem
from shared.service.clocks import WRONG_MS, skew_of, skewed
from shared.service.installation import Installation


def check_ledger(installation: Installation) -> Iterator[Finding]:
    """Checks where the ledger ends, and whether a position is missing."""
    ledger, store = installation.shared.ledger, installation.store
    least, head, most = store.xlen(LOG), ledger.head().position, store.xlen(LOG)
    if least <= head <= most:
        yield ok(f"ends at position {head:,}, and no event is missing" if head else "empty")
        return
    yield problem(
        f"it ends at position {head:,} and has {most:,} events",
        "`keyledger audit check` names the missing ones. Restore the store's files from a copy.",
    )


def check_clock(installation: Installation) -> Iterator[Finding]:
    """Compares the clock of the store, which stamps events, with this machine's, which expires keys."""
    store = installation.store

    def ask() -> float:
        seconds, microseconds = store.time()
        return seconds * 1000 + microseconds / 1000

    yield skewed(skew_of(ask), "the store's")
    last = installation.shared.ledger.newest()
    ahead = last.at - now_ms() if last else 0
    if ahead > WRONG_MS:
        yield problem(
            f"the ledger's last event is {ahead / 1000:,.0f} s ahead of this clock: a clock was set back",
            "Synchronize the clocks by NTP. Until then all new events have the time of that one.",
        )
