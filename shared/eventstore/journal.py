"""Events that depend on no state: who signed in, who was denied, who took the audit log away."""

from collections.abc import Callable
from dataclasses import dataclass

from shared.eventstore.events import Actor, Payload, Request, enveloped
from shared.eventstore.ledger import Appended, Ledger, VersionConflictError

_ATTEMPTS = 10


@dataclass(frozen=True)
class Journal:
    """Appends what is decided on nothing that was before: after whatever its subject has already."""

    ledger: Ledger
    new_id: Callable[[], str]

    def tell(
        self, payload: Payload, *, subject: str, workspace: str, actor: Actor, request: Request
    ) -> Appended:
        """Raises VersionConflictError (after several tries), NotReplicatedError, redis.RedisError."""
        version = self.ledger.version(subject)
        for attempt in range(1, _ATTEMPTS + 1):
            events = enveloped(
                [payload],
                subject=subject,
                after_version=version,
                workspace=workspace,
                actor=actor,
                request=request,
                new_id=self.new_id,
            )
            try:
                return self.ledger.append(subject, events, version)
            except VersionConflictError as error:
                if attempt == _ATTEMPTS:
                    raise
                version = error.actual
        raise AssertionError("the last attempt returns or raises")
