"""The ledger, the views that are built from it, and whether a process follows it."""

import time
from collections.abc import Iterator
from itertools import islice

from services.doctor.findings import Finding, ok, problem, warning
from services.doctor.installation import Installation
from services.keys.read_model.operations import keys_with_unprintable_expiry, status
from shared.components import now_ms
from shared.eventstore.lag import Lag
from shared.eventstore.ledger import LOG

_MAX_NAMED = 10
WENT_BACKWARDS = "`keyledger audit check` says what is lost; docs/runbooks.md says what to do."


_LAPSE_S = 2.0  # for which a busy process may read the ledger for each verdict


def check_verifier(installation: Installation) -> Iterator[Finding]:
    """Whether this process follows the ledger, as its verdicts and its callers' keys need it."""
    if time.monotonic() <= installation.tail.fresh_until + _LAPSE_S:
        yield ok("follows the ledger")
        return
    yield problem(
        "this web process does not follow the ledger: it reads it for every verdict, or gives none",
        "It follows again once the store answers in time. If the store is well, restart this process.",
    )


def check_ledger(installation: Installation) -> Iterator[Finding]:
    """Where it ends, and whether any position is missing."""
    ledger, store = installation.ledger, installation.store
    least, head, most = store.xlen(LOG), ledger.head().position, store.xlen(LOG)
    if least <= head <= most:
        yield ok(f"ends at position {head:,}, and no event is missing" if head else "empty")
        return
    yield problem(
        f"it ends at position {head:,} and has {most:,} events",
        "`keyledger audit check` names the missing ones. Bring the store's files back from a copy.",
    )


def check_views(installation: Installation) -> Iterator[Finding]:
    """Whether they keep up, and every key is in them."""
    ledger, views = installation.ledger, installation.views
    if ledger.holds(views.live().checkpoint()):
        found = status(ledger, views, now_ms())
        yield standing(found.lag, "See that `keyledger projector` runs, and what it prints.")
    else:
        yield problem(
            "they have an event that the ledger lacks: it went backwards",
            f"The projector builds them anew. {WENT_BACKWARDS}",
        )
    if parked := views.live().parked():
        first, reason = next(iter(parked.items()))
        yield problem(
            f"{len(parked)} set aside, the first {first}: {reason}",
            "`keyledger projector retry` takes them up again; `keyledger projector status` names them all.",
        )


def check_expiry_times(installation: Installation) -> Iterator[Finding]:
    """Whether every stored expiry can be shown as it is. Reads every row, so it is only for `doctor`."""
    keys = [*islice(keys_with_unprintable_expiry(installation.ledger, installation.views), _MAX_NAMED + 1)]
    if keys:
        more = " and more" if len(keys) > _MAX_NAMED else ""
        yield warning(
            f"these keys have an expiry outside the years 1 to 9999: {', '.join(keys[:_MAX_NAMED])}{more}",
            "They are shown with the nearest time that can be printed. Set another expires_at, or none.",
        )
    else:
        yield ok("all can be shown")


def standing(lag: Lag, advice: str) -> Finding:
    """What is to be said of a reader that is so far behind the ledger."""
    found = f"at position {lag.head - lag.events:,} of {lag.head:,}"
    if lag.is_long:
        return problem(f"{found}, {lag.ms / 1000:,.0f} s behind", advice)
    return ok(found if lag.events else "level with the ledger")
