"""Changes an aggregate: loads it, decides, and appends at the version that was decided on."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import repeat
from typing import Generic, TypeVar

from shared.eventstore.codec import decode
from shared.eventstore.envelope import Actor, Event, NewEvent, Record, Request, enveloped, recorded
from shared.eventstore.ledger import Appended, Guard, Ledger, VersionConflictError
from shared.eventstore.payload import Payload, Payloads
from shared.store.idempotency import Idempotency

_MAX_ATTEMPTS = 5

S = TypeVar("S")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Author:
    """Who changes something, in which workspace, and by which request."""

    workspace: str
    actor: Actor
    request: Request


@dataclass(frozen=True)
class Handled(Generic[S]):
    """The aggregate after a command, and the ledger position that has it.

    `repeated`: an earlier, equal request did this already.
    """

    state: S
    position: int
    repeated: bool = False


@dataclass(frozen=True)
class CommandHandler(Generic[S]):
    """Handles the commands of one kind of aggregate. `new_id` names an event.

    Raises UnreadableEventError, IdempotencyConflictError, NotReplicatedError, redis.RedisError, and
    VersionConflictError when other changes got in first on every attempt.
    """

    ledger: Ledger
    new_id: Callable[[], str]
    evolve: Callable[[S | None, Event], S]

    def handle(
        self,
        subject: str,
        decide: Callable[[S], Payloads],
        author: Author,
        *,
        load: Callable[[str], Sequence[Record]],
        guard: Callable[[], Guard | None] = lambda: None,
        idempotency: Idempotency | None = None,
        credential: str = "",
    ) -> Handled[S]:
        """Appends what `decide` returns for the current state, and nothing if it returns nothing.

        `load` returns all records of the subject, one or more, or raises. It is called again on each attempt,
        as `guard` and `decide` are, so what they authorize holds for the version that is appended to.
        """

        def attempt() -> Handled[S]:
            guarded = guard()
            records = load(subject)
            state = self.fold(map(decode, records))
            payloads = decide(state)
            if not payloads:
                return Handled(state, records[-1].position)
            return self.append(
                subject,
                payloads,
                author,
                version=len(records),
                state=state,
                guard=guarded,
                idempotency=idempotency,
                credential=credential,
            )

        return retried(attempt)

    def append(
        self,
        subject: str,
        payloads: Payloads,
        author: Author,
        *,
        version: int = 0,
        state: S | None = None,
        guard: Guard | None = None,
        idempotency: Idempotency | None = None,
        credential: str = "",
    ) -> Handled[S]:
        """Appends to a subject at a version; by default to a new one. Makes one attempt."""
        events = self.enveloped(subject, version, payloads, author)
        appended = self.ledger.append(subject, events, version, idempotency, credential, guard)
        if appended.repeated:
            return self.outcome(appended)
        happened = map(recorded, events, appended.positions, repeat(appended.at))
        return Handled(self.fold(happened, state), appended.position)

    def enveloped(self, subject: str, version: int, payloads: Payloads, author: Author) -> Sequence[NewEvent]:
        """Returns the events that follow a version.

        Raises InvalidFieldError if a field holds an API key, and ValueError for a subject that an event of
        this type can't be about.
        """
        for payload in payloads:
            if not subject.startswith(payload.SUBJECTS):
                raise ValueError(f"{payload.TYPE} can't be about the subject {subject!r}")
        return enveloped(
            payloads,
            subject=subject,
            after_version=version,
            workspace=author.workspace,
            actor=author.actor,
            request=author.request,
            new_id=self.new_id,
        )

    def outcome(self, appended: Appended) -> Handled[S]:
        """The aggregate as an earlier request left it, whatever came after."""
        records = self.ledger.records(appended.subject)
        happened = (decode(record) for record in records if record.position <= appended.position)
        return Handled(self.fold(happened), appended.position, repeated=True)

    def fold(self, events: Iterable[Event], state: S | None = None) -> S:
        """The state that events lead to, from another state or from none."""
        state = reduce(self.evolve, events, state)
        if state is None:
            raise ValueError("no events to fold")
        return state


@dataclass(frozen=True)
class Journal:
    """Records facts that depend on no state, such as sign-ins: after whatever their subject has already."""

    ledger: Ledger
    new_id: Callable[[], str]

    def record(
        self, payload: Payload, *, subject: str, workspace: str, actor: Actor, request: Request
    ) -> int:
        """Returns the position. Raises VersionConflictError, NotReplicatedError, redis.RedisError."""
        author = Author(workspace, actor, request)
        handler: CommandHandler[Event] = CommandHandler(self.ledger, self.new_id, lambda _, event: event)
        return retried(
            lambda: handler.append(subject, [payload], author, version=self.ledger.version(subject)),
            2 * _MAX_ATTEMPTS,
        ).position


def retried(attempt: Callable[[], _T], attempts: int = _MAX_ATTEMPTS) -> _T:
    """Makes another attempt if something else changed the aggregate in the meantime."""
    for _ in range(attempts - 1):
        try:
            return attempt()
        except VersionConflictError:
            continue
    return attempt()
