"""What all commands have in common: each is told in the log when it ended, with its outcome, and observed."""

import time
from collections.abc import Callable
from functools import wraps
from typing import Literal, ParamSpec, TypeAlias, TypeVar

import structlog
from redis import RedisError

from shared.connections import StoreError
from shared.errors import AdvisedError
from shared.events import Request, UnreadableEventError
from shared.identity import ForbiddenError, Principal
from shared.ledger import IdempotencyConflictError, NotReplicatedError, VersionConflictError

# done, also where nothing was left to do; refused by a rule; in conflict with another; the store is away or
# the history not readable, so that it is not known or not possible; a mistake of ours.
Outcome: TypeAlias = Literal["done", "refused", "conflict", "unavailable", "failed"]
Observer: TypeAlias = Callable[[str, Outcome, float], object]  # the command's name, and how long it took in s

_P = ParamSpec("_P")
_R = TypeVar("_R")
_observers: list[Observer] = []
_log = structlog.get_logger(__name__)


def observe(observer: Observer) -> None:
    """Tells it of each command that ends in this process from now on."""
    _observers.append(observer)


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
    facts: dict[str, object] = {"outcome": outcome, "ms": round(seconds * 1000, 1)}
    if error is not None:  # its name alone, for its words may repeat what was typed
        facts["error"] = error
    for thing in given:
        if isinstance(thing, Principal):
            facts |= {"actor": thing.id, "workspace": thing.workspace}
        elif isinstance(thing, Request):
            facts["request_id"] = thing.id
    _log.info(name, **facts)


def _outcome(error: Exception) -> Outcome:
    match error:
        case RedisError() | StoreError() | NotReplicatedError() | UnreadableEventError():
            return "unavailable"
        case VersionConflictError() | IdempotencyConflictError():
            return "conflict"
        case ForbiddenError() | AdvisedError():
            return "refused"
    return "failed"
