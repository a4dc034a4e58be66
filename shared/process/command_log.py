"""What all commands have in common: each is told in the log when it ended, with its outcome, and observed."""

import time
from collections import deque
from collections.abc import Callable
from functools import wraps
from threading import Event as Stop
from threading import Lock
from typing import Literal, ParamSpec, TypeAlias, TypeVar

import structlog
from redis import RedisError

from shared.clock import rfc3339
from shared.errors import UserFacingError
from shared.eventstore.events import Request, UnreadableEventError
from shared.eventstore.ledger import IdempotencyConflictError, NotReplicatedError, VersionConflictError
from shared.identity import ForbiddenError, Principal
from shared.process.telemetry import together
from shared.store.connections import StoreError

# done, also where nothing was left to do; refused by a rule; in conflict with another; the store is away or
# the history not readable, so that it is not known or not possible; a mistake of ours.
Outcome: TypeAlias = Literal["done", "refused", "conflict", "unavailable", "failed"]
Observer: TypeAlias = Callable[[str, Outcome, float], object]  # the command's name, and how long it took in s

_BATCH_EVERY_S = 0.1

_P = ParamSpec("_P")
_R = TypeVar("_R")
_observers: list[Observer] = []
_waiting: deque[dict[str, object]] = deque()  # lines that are not written yet
_writing = Lock()
_batching = Stop()  # set while a thread of this process writes them
_log = structlog.get_logger(__name__)


def observe(observer: Observer) -> None:
    """Tells it of each command that ends in this process from now on."""
    _observers.append(observer)


def log_in_batches(stop: Stop) -> None:
    """Writes the lines of commands ten times a second instead of each at once, until told to stop.

    A line by itself takes the call that it tells of several times as long as one of many: what renders it
    is in no cache, and each write lets the other threads of a busy process go first. Who ends the process
    calls `log_waiting`; one that is killed loses the last of these lines, and none of their events.
    """
    _batching.set()
    while not stop.wait(_BATCH_EVERY_S):
        log_waiting()
    _batching.clear()
    log_waiting()


def log_waiting() -> None:
    """Writes the lines that wait. Afterwards none of another thread's is still under way."""
    with _writing, together():
        while _waiting:
            _log.info(**_waiting.popleft())


def command(name: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """For what changes something when somebody asks for it. None as its result is a refusal."""

    def decorate(act: Callable[_P, _R]) -> Callable[_P, _R]:
        @wraps(act)
        def told(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            began = time.perf_counter()
            try:
                result = act(*args, **kwargs)
            except Exception as error:
                _ended(name, _outcome(error), began, (*args, *kwargs.values()), type(error).__name__)
                raise
            _ended(name, "done" if result is not None else "refused", began, (*args, *kwargs.values()))
            return result

        return told

    return decorate


def _ended(
    name: str, outcome: Outcome, began: float, given: tuple[object, ...], error: str | None = None
) -> None:
    seconds = time.perf_counter() - began
    for observer in _observers:
        observer(name, outcome, seconds)
    line: dict[str, object] = {
        "event": name,
        "timestamp": rfc3339(time.time_ns() // 1_000_000),
        "outcome": outcome,
        "ms": round(seconds * 1000, 1),
    }
    if error is not None:  # its name alone, for its words may repeat what was typed
        line["error"] = error
    for thing in given:
        if isinstance(thing, Principal):
            line |= {"actor": thing.id, "workspace": thing.workspace}
        elif isinstance(thing, Request):
            line["request_id"] = thing.id
    _waiting.append(line)
    if not _batching.is_set():
        log_waiting()


def _outcome(error: Exception) -> Outcome:
    match error:
        case RedisError() | StoreError() | NotReplicatedError() | UnreadableEventError():
            return "unavailable"
        case VersionConflictError() | IdempotencyConflictError():
            return "conflict"
        case ForbiddenError() | UserFacingError():
            return "refused"
    return "failed"
