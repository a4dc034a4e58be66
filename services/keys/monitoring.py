"""The checks and metrics of the key service."""

import time
from collections.abc import Iterator, Sequence
from itertools import islice

from services.keys.components import KeyComponents
from services.keys.read_model.generations import Views
from services.keys.read_model.operations import Status, keys_with_unprintable_expiry, status
from shared.clock import now_ms
from shared.service.checks import (
    EVERYWHERE,
    NOT_READY,
    READY,
    WENT_BACKWARDS,
    Check,
    Concern,
    Finding,
    keeps_up,
    ok,
    problem,
    warning,
)
from shared.service.components import Container
from shared.service.installation import Installation
from shared.service.metrics import Counted, Gauge, Metrics, Source, lag_gauges

_MAX_NAMED = 10
_LAPSE_S = 2.0  # for which a busy process may read the ledger for each verdict


def check_verifier(installation: Installation) -> Iterator[Finding]:
    """Checks whether this process follows the ledger, as verification and authentication need it to."""
    process = installation.process
    if process and time.monotonic() <= process.of(KeyComponents).invalidator.fresh_until + _LAPSE_S:
        yield ok("follows the ledger")
        return
    yield problem(
        "this web process doesn't follow the ledger: it reads it for each verification, or answers 503",
        "It recovers once the store answers in time. If the store is healthy, restart this process.",
    )


def check_views(installation: Installation) -> Iterator[Finding]:
    """Checks whether the views keep up and have every key."""
    ledger, views = installation.shared.ledger, Views(installation.store)
    if ledger.holds(views.live().checkpoint()):
        found = status(ledger, views, now_ms())
        yield keeps_up(found.lag, "Make sure that `keyledger projector` runs, and see what it prints.")
    else:
        yield problem(
            "they have an event that isn't in the ledger: it went backwards",
            f"The projector rebuilds them. {WENT_BACKWARDS}",
        )
    if parked := views.live().parked():
        first, reason = next(iter(parked.items()))
        yield problem(
            f"{len(parked)} parked, the first {first}: {reason}",
            "`keyledger projector retry` retries them; `keyledger projector status` lists them all.",
        )


def check_expiry_times(installation: Installation) -> Iterator[Finding]:
    """Checks whether every stored expiry can be shown. It reads every row, so only `doctor` runs it."""
    found = keys_with_unprintable_expiry(installation.shared.ledger, Views(installation.store))
    keys = [*islice(found, _MAX_NAMED + 1)]
    if keys:
        more = " and more" if len(keys) > _MAX_NAMED else ""
        yield warning(
            f"these keys have an expiry outside the years 1 to 9999: {', '.join(keys[:_MAX_NAMED])}{more}",
            "They are shown with the nearest printable time. Set another expires_at, or none.",
        )
    else:
        yield ok("all can be displayed")


def _status(components: Container) -> Status:
    return status(components.shared.ledger, components.of(KeyComponents).views, now_ms())


_VIEWS = "the-views-are-behind"

CHECKS = (
    Check(
        "verifier",
        check_verifier,
        READY | Concern.STATUS,
        "This process doesn't follow the ledger.",
        NOT_READY,
    ),
    Check(
        "views",
        check_views,
        EVERYWHERE,
        "The views are behind or ahead of the ledger, or keys are parked.",
        _VIEWS,
    ),
    Check(
        "expiry times",
        check_expiry_times,
        Concern.DOCTOR,
        "Never. It warns if a key's expiry can't be shown as stored.",
        _VIEWS,
    ),
)

VERDICTS = Counted(
    "keyledger_verdicts", "counter", "Verification results returned to callers and gateways.", ("code",)
)
METRICS: Sequence[Metrics] = (
    VERDICTS,
    Source(
        _status,
        (
            Gauge(
                "keyledger_projector_position", "Last position applied to the views.", lambda it: it.position
            ),
            *lag_gauges("projector", "the views", lambda it: it.lag),
            Gauge(
                "keyledger_projector_parked_keys",
                "Keys parked by the projector.",
                lambda it: len(it.parked),
            ),
        ),
    ),
)
