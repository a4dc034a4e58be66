"""A thousand generated intact histories, with every event type and unreadable events: no findings."""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.audit.export.jsonl import WHOLE, lines, scope_of
from services.audit.export.verify import prove
from services.audit.integrity.checkpoint import unverified
from services.audit.integrity.notary import Notary
from services.audit.integrity.signer import Signer
from services.audit.integrity.verify_log import Trust, check
from services.audit.log.filters import Filters
from services.audit.log.store import AuditLog
from shared.eventstore.codec import FORMS, encode
from shared.eventstore.envelope import Actor, Record, Request, enveloped
from shared.eventstore.ledger import Checkpoint, checkpoint_at
from shared.eventstore.payload import Payload
from tests.support.histories import AT, notary_of

_TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
_ACTORS = st.builds(
    Actor, kind=st.sampled_from(["account", "key", "operator", "anonymous"]), id=_TEXT, label=_TEXT
)
_REQUESTS = st.builds(Request, id=_TEXT, ip=st.none() | _TEXT, user_agent=st.none() | _TEXT)
_WORKSPACES = st.sampled_from(["default", "other", ""])
_UNREADABLE = st.sampled_from(
    [
        b"no JSON",
        b"",
        b"{}",
        b"\xff\x00",
        b'{"a":\n1}',
        b"[" * 2_000,
        b'{"id":"a","subject":"key:1"}',
        b'"\r"',
    ]
) | st.binary(max_size=20)


def values(of: Any) -> st.SearchStrategy[Any]:
    """Values of a field, by its type."""
    if of is int:
        return st.integers(-(2**53), 2**53)
    return _TEXT if of is str else st.from_type(of)


def bodies(form: type[Payload]) -> st.SearchStrategy[bytes]:
    """Stored events of one form."""
    hints = msgspec.structs.fields(form)
    payloads = st.builds(form, **{hint.name: values(hint.type) for hint in hints})
    return st.builds(
        stored, payloads, _ACTORS, _REQUESTS, _WORKSPACES, st.sampled_from(["key:1", "key:2", "é"])
    )


_ids = count()


def stored(payload: Payload, actor: Actor, request: Request, workspace: str, subject: str) -> bytes:
    (event,) = enveloped(
        [payload],
        subject=subject,
        after_version=3,
        workspace=workspace,
        actor=actor,
        request=request,
        new_id=lambda: f"event-{next(_ids)}",
    )
    return encode(event)


@dataclass
class Step:
    """New events, the page size for appending them, and whether a checkpoint is forced."""

    bodies: list[bytes]
    page: int
    vouch: bool


_BODIES = st.one_of(*map(bodies, FORMS), _UNREADABLE)
_STEPS = st.builds(Step, st.lists(_BODIES, max_size=6), st.integers(1, 4), st.booleans())


@dataclass
class Kept:
    """An in-memory ledger with the methods that the check reads."""

    records: list[Record] = field(default_factory=list)

    def head(self) -> Checkpoint:
        return checkpoint_at(self.records) if self.records else Checkpoint(0, "")

    def pages(self, after: int, limit: int) -> Iterator[list[Record]]:
        for start in range(after, len(self.records), limit):
            yield self.records[start : start + limit]


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A directory in memory where possible, because a thousand databases are created."""
    memory = Path("/dev/shm")  # noqa: S108  # a directory of its own in it
    with tempfile.TemporaryDirectory(prefix="kl-", dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def signer(directory: Path) -> Signer:
    return Signer(directory / "audit_key.pem")


@pytest.fixture(scope="module")
def empty(directory: Path) -> Path:
    """The database of an empty log."""
    log = AuditLog(f"sqlite:///{directory / 'empty.db'}")
    log.last()
    log.close()
    return directory / "empty.db"


@pytest.mark.parametrize("examples", [100, pytest.param(1_000, marks=pytest.mark.drill)])
def test_intact_histories_have_no_findings(
    examples: int, directory: Path, signer: Signer, empty: Path
) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(
        steps=st.lists(_STEPS, max_size=5), jumps=st.lists(st.integers(0, 400_000), min_size=30, max_size=30)
    )
    def try_one(steps: list[Step], jumps: list[int]) -> None:
        for left in directory.glob("log.db*"):
            left.unlink()
        signer.anchor_file.unlink(missing_ok=True)
        shutil.copy(empty, directory / "log.db")
        live_through(steps, AuditLog(f"sqlite:///{directory / 'log.db'}"), signer, jumps)

    try_one()


def live_through(steps: list[Step], log: AuditLog, signer: Signer, jumps: list[int]) -> None:
    ledger, clock, now = Kept(), iter(jumps), [AT]

    def tick() -> int:
        now[0] += next(clock, 1_000)
        return now[0]

    notary = notary_of(log, ledger, signer, tick)  # type: ignore[arg-type]  # all that it asks a ledger
    try:
        for step in steps:
            live(step, ledger, log, notary, tick)
        judge(ledger, log, signer)
    finally:
        log.close()


def live(step: Step, ledger: Kept, log: AuditLog, notary: Notary, tick: Any) -> None:
    for body in step.bodies:
        ledger.records.append(Record(len(ledger.records) + 1, tick() if ledger.records else AT, body))
    start = log.last().position
    for after in range(start, len(ledger.records), step.page):
        # Two workers append overlapping pages.
        log.append(ledger.records[after : after + step.page])
        log.append(ledger.records[max(after - 1, 0) : after + step.page])
    if step.vouch:
        notary.sign_checkpoint()
    else:
        notary.sign_checkpoint_if_due()


def judge(ledger: Kept, log: AuditLog, signer: Signer) -> None:
    trust = Trust(signer.public_key, signer.anchor())
    result = check(log, ledger, trust, lambda *_: None)  # type: ignore[arg-type]  # all that it asks a ledger
    assert result.findings == []
    assert result.entries == len(ledger.records)
    vouchers = [(unverified(each.note).position, each.note) for each in log.checkpoints()]
    whole = [*lines(log.walk(2**62), vouchers, WHOLE, AT, signer.sign)]
    assert prove(b"".join(whole).splitlines(keepends=True), signer.public_key).findings == []
    some = [
        *lines(
            log.search.ascending(Filters(workspace="default")), [], scope_of("default", {}), AT, signer.sign
        )
    ]
    assert prove(some, signer.public_key).findings == []
