"""Events for the tests of the audit log."""

from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any
from unittest.mock import Mock

from services.audit.integrity.alarms import Alarms
from services.audit.integrity.comparison import Comparison
from services.audit.integrity.notary import Notary
from services.audit.integrity.signer import Signer
from services.audit.log.entry import GENESIS, chain
from services.audit.log.filters import Filters
from services.audit.log.store import AuditLog
from shared.eventstore.codec import encode
from shared.eventstore.envelope import Actor, Record, Request, enveloped
from shared.eventstore.events import KeyCreated, KeyToggled
from shared.eventstore.ledger import Ledger
from shared.eventstore.payload import Payload

ACTOR = Actor(kind="account", id="account:ann@example.org", label="ann@example.org")
REQUEST = Request(id="request-1", ip="192.0.2.7", user_agent="tests/1")
AT = 1_795_460_361_123
_ids = count(1)


def created(name: str = "My Web App Integration", **fields: object) -> KeyCreated:
    """A KeyCreated payload; the fields override its defaults."""
    values = {
        "name": name,
        "description": "",
        "prefix": "kl",
        "hint": "kl_3fA9…x7Qz",
        "digest": "ab" * 32,
        "scopes": ("orders.read",),
        "expires_at": None,
    }
    return KeyCreated(**values | fields)  # type: ignore[arg-type]  # the names and types are the class's


def record(
    position: int,
    payload: Payload | None = None,
    *,
    subject: str = "key:1",
    workspace: str = "default",
    actor: Actor = ACTOR,
    request: Request = REQUEST,
    at: int | None = None,
) -> Record:
    """A ledger record with one event."""
    event = enveloped(
        [payload or KeyToggled(enabled=position % 2 == 1, reason="")],
        subject=subject,
        after_version=0,
        workspace=workspace,
        actor=actor,
        request=request,
        new_id=lambda: f"event-{position}",
    )[0]
    return Record(position, AT + position if at is None else at, encode(event))


def records(positions: Iterable[int]) -> list[Record]:
    """Events of three keys."""
    return [record(position, subject=f"key:{position % 3}") for position in positions]


def grow(
    ledger: Ledger, events: int, subject: str = "key:1", payloads: Sequence[Payload] | None = None
) -> None:
    """Appends events of one subject to a real ledger."""
    version = sum(1 for _ in ledger.records(subject))
    for start in range(0, events, 500):
        some = payloads or [
            KeyToggled(enabled=n % 2 == 1, reason="") for n in range(start, min(start + 500, events))
        ]
        new = enveloped(
            some,
            subject=subject,
            after_version=version,
            workspace="default",
            actor=ACTOR,
            request=REQUEST,
            new_id=lambda: f"event-{next(_ids)}",
        )
        ledger.append(subject, new, version)
        version += len(new)


def write(ledger: Ledger, log: AuditLog, events: Sequence[Record]) -> None:
    """Appends events to a ledger and to its audit log."""
    ledger.fill(ledger.head().position, events)
    log.append(events)


def notary_of(log: AuditLog, ledger: Ledger, signer: Signer, now_ms: Callable[[], int]) -> Notary:
    """A notary whose alarms are mocked."""
    return Notary(Comparison(log, ledger, Mock(Alarms)), signer, now_ms)


def found(log: AuditLog, **criteria: Any) -> list[int]:
    """The positions of matching entries, newest first."""
    filters = Filters(**{"workspace": "default"} | criteria)
    return [entry.position for entry in log.search.page(filters, 1_000).entries]


def in_step(log: AuditLog, ledger: Ledger) -> bool:
    """Whether the log has each event of the ledger exactly once, in order."""
    head = ledger.head().position
    return list(log.walk(2**62)) == list(chain(ledger.read(0, head), GENESIS))
