"""The ledger's contract in plain Python, for tests of code that uses a ledger."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice
from threading import Condition

from shared.clock import LAST_TIME
from shared.eventstore.codec import decode, encode, name_of
from shared.eventstore.envelope import Event, NewEvent, Record
from shared.eventstore.ledger import (
    BEGINNING,
    Appended,
    Checkpoint,
    Guard,
    Ledger,
    UnexpectedHeadError,
    VersionConflictError,
    checkpoint_at,
)
from shared.store.idempotency import Idempotency, IdempotencyConflictError


def _now() -> int:
    return time.time_ns() // 1_000_000


class MemoryLedger(Ledger):
    """One list, in which everything else is looked up. Nothing expires, not even idempotency records.

    It is a Ledger only for the types: it has no store, and inherits nothing that it uses.
    """

    def __init__(self, now: Callable[[], int] = _now) -> None:
        self._now = now
        self._log: list[tuple[str, Record]] = []  # the subject, and what is stored
        self._outcomes: dict[str, tuple[str, Appended]] = {}  # of requests: the fingerprint, what came of it
        self._credentials: dict[str, str] = {}
        self._grown = Condition()

    def append(
        self,
        subject: str,
        events: Sequence[NewEvent],
        expected_version: int,
        idempotency: Idempotency | None = None,
        credential: str = "",
        guard: Guard | None = None,
    ) -> Appended:
        """Appends all the events or none."""
        bodies = [encode(event) for event in events]
        with self._grown:
            if earlier := self.recall(idempotency):
                return earlier
            version = len(list(self.records(subject)))
            if version != expected_version:
                raise VersionConflictError(subject, expected_version, version)
            if guard and (actual := self.version(guard.subject)) != guard.version:
                raise VersionConflictError(guard.subject, guard.version, actual)
            head = len(self._log)
            at = max(self._now(), min(self._log[-1][1].at, LAST_TIME) if self._log else 0)
            self._log += [(subject, Record(head + n, at, body)) for n, body in enumerate(bodies, 1)]
            appended = Appended(subject, tuple(range(head + 1, len(self._log) + 1)), at=at)
            if idempotency:
                self._outcomes[idempotency.name] = (idempotency.fingerprint, appended)
            if credential:
                self._credentials[subject] = credential
            self._grown.notify_all()
            return appended

    def fill(self, after: int, records: Sequence[Record]) -> None:
        """Writes the events that follow position `after`, with their own times."""
        with self._grown:
            if len(self._log) != after:
                raise UnexpectedHeadError
            self._log += [
                (name_of(record).subject or "", record._replace(position=position))
                for position, record in enumerate(records, after + 1)
            ]
            self._grown.notify_all()

    def keep_credential(self, subject: str, credential: str) -> None:
        """Stores a subject's credential without an event."""
        self._credentials[subject] = credential

    def is_untouched(self) -> bool:
        """Whether nothing was ever written."""
        return not self._log

    def recall(self, idempotency: Idempotency | None) -> Appended | None:
        """What an earlier, equal request appended."""
        if idempotency is None or idempotency.name not in self._outcomes:
            return None
        fingerprint, appended = self._outcomes[idempotency.name]
        if fingerprint != idempotency.fingerprint:
            raise IdempotencyConflictError
        return Appended(appended.subject, appended.positions, repeated=True)

    def history(self, subject: str) -> list[Event]:
        """All events of one subject, oldest first."""
        return [decode(record) for record in self.records(subject)]

    def records(self, subject: str, after: int = 0) -> Iterator[Record]:
        """The stored events of one subject after a version."""
        return islice((record for about, record in list(self._log) if about == subject), after, None)

    def page(self, subject: str, after: int, limit: int) -> list[Record]:
        """The next `limit` events of one subject after a version."""
        return [*islice(self.records(subject, after), limit)]

    def last(self, subject: str) -> Event | None:
        """The newest event of one subject."""
        history = self.history(subject)
        return history[-1] if history else None

    def version(self, subject: str) -> int:
        """How many events a subject has."""
        return len(list(self.records(subject)))

    def read(self, after: int, limit: int) -> list[Record]:
        """The next `limit` events after a position, oldest first."""
        return [record for _, record in self._log[after : after + limit]]

    def pages(self, after: int, limit: int) -> Generator[list[Record], None, None]:
        """All events after a position, in pages."""
        while page := self.read(after, limit):
            yield page
            after = page[-1].position

    def at(self, positions: Iterable[int]) -> list[Record]:
        """The existing events at the given positions, in order."""
        wanted = {*positions}
        return [record for _, record in self._log if record.position in wanted]

    def tail(self, after: int, limit: int, wait_ms: int) -> list[Record]:
        """The same as `read`, after waiting up to `wait_ms` for the first event."""
        with self._grown:
            self._grown.wait_for(lambda: len(self._log) > after, wait_ms / 1000)
            return self.read(after, limit)

    def newest(self) -> Record | None:
        """The last event as it is stored."""
        return self._log[-1][1] if self._log else None

    def head(self) -> Checkpoint:
        """The last event, or the beginning if the ledger is empty."""
        return checkpoint_at([self._log[-1][1]]) if self._log else BEGINNING

    def holds(self, checkpoint: Checkpoint) -> bool:
        """Whether a checkpoint's event is still at its position."""
        if checkpoint == BEGINNING:
            return True
        there = self.read(checkpoint.position - 1, 1)
        return bool(there) and checkpoint_at(there) == checkpoint

    def credential(self, subject: str) -> str | None:
        """The credential that is stored for a subject outside the log."""
        return self._credentials.get(subject)
