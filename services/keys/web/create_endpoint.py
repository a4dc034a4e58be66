"""Creates keys on the fast path: platforms create them by the thousand.

Any request that isn't plain and valid is left to the view in `api`, which calls the same functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from marshmallow import EXCLUDE, ValidationError

from services.keys.commands import CommandResult, KeyCommands
from services.keys.web.schemas import NewKeySchema, NewSecretSchema, presented
from shared.identity import KEYS_WRITE, Authenticator, Principal, authorize
from shared.web.json_requests import json_of
from shared.web.schemas import IdempotencySchema
from shared.web.server.context import RequestContext
from shared.web.server.fast_path import Answer

if TYPE_CHECKING:
    from shared.eventstore.events import KeyDetails
    from shared.web.server.limits import Limits

_SHOWN_ONCE = (
    "The whole key was in the first answer to this request and is stored nowhere. "
    "If it was lost, rotate this key: that gives it a new secret."
)
_HEADERS = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
_NEW_KEY = NewKeySchema()
_NEW_SECRET = NewSecretSchema()
_IDEMPOTENCY = IdempotencySchema(unknown=EXCLUDE)

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class CreateEndpoint:
    """`POST /v1/keys`."""

    commands: KeyCommands
    authenticate: Authenticator
    limits: Limits

    def __call__(self, context: RequestContext) -> Answer | None:
        """Raises UnauthenticatedError, TooManyRequestsError, and what `create` of the commands raises."""
        environ = context.environ
        if environ["REQUEST_METHOD"] != "POST" or environ["QUERY_STRING"]:
            return None
        body = context.plain_json
        if body is None:
            return None
        try:
            new: KeyDetails = _NEW_KEY.load(json_of(body))
            key = _idempotency_key(environ.get("HTTP_IDEMPOTENCY_KEY"))
        except (ValidationError, ValueError, RecursionError):
            return None
        principal = self._caller(context)
        keyed = context.idempotency(principal, key, body) if key else None
        done = self.commands.create(principal, new, context.origin, keyed)
        headers = [*_HEADERS, *created_headers(done).items()]
        return Answer(headers, _encode(_NEW_SECRET.dump(shown_once(done))), "201 CREATED")

    def _caller(self, context: RequestContext) -> Principal:
        principal = context.caller(self.authenticate)
        self.limits.count(principal)
        authorize(principal, KEYS_WRITE)
        return principal


def shown_once(done: CommandResult) -> dict[str, Any]:
    """The key with its token, or with a notice if the token was already shown."""
    secret = {"api_key": done.api_key.reveal()} if done.api_key else {"notice": _SHOWN_ONCE}
    return presented(done.key) | secret


def command_headers(done: CommandResult) -> dict[str, str]:
    """The headers of the response to a command."""
    return {"X-Ledger-Position": str(done.position), "ETag": f'"{done.key.version}"'}


def created_headers(done: CommandResult) -> dict[str, str]:
    """The headers of the response to a command that created a key."""
    return command_headers(done) | {"Location": f"/v1/keys/{done.key.id}"}


def _idempotency_key(given: str | None) -> str | None:
    if given is None:
        return None
    named: dict[str, str] = _IDEMPOTENCY.load({"Idempotency-Key": given})
    return named["idempotency_key"]
