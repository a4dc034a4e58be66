"""Verify and forward-auth on the fast path: a platform calls them for each of its own requests.

Any request that isn't plain is left to the views in `verify_api`, which call the same functions. Flask
answers the errors that they raise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote_plus

import msgspec
from marshmallow import ValidationError

from services.keys.verification.verifier import REFUSALS, Verdict, Verifier
from services.keys.web.fields import MAX_SCOPES, check_scopes
from shared.clock import rfc3339
from shared.identity import (
    KEYS_VERIFY,
    PLATFORM_VERIFY,
    WORKSPACE_RULE,
    Authenticator,
    InvalidKeyError,
    Principal,
    authorize,
    is_workspace_name,
)
from shared.text.key_detection import resembles_key
from shared.web.server.context import Headers, RequestContext
from shared.web.server.fast_path import Answer

FORWARD_AUTH = "/v1/forward-auth"
UNAVAILABLE = "UNAVAILABLE"  # where no verdict could be given
_POSITION_DIGITS = 15
_PARAMETERS = ("scopes", "workspace")  # of forward-auth
_SHOWN_LENGTH = 50  # of what a caller sent, in an error
_NO_STORE = ("Cache-Control", "no-store")
_JSON = (("Content-Type", "application/json"), _NO_STORE)


class ScopesLackingError(Exception):
    """The key in a gateway's request lacks a scope."""

    def __init__(self, scopes: Sequence[str]) -> None:
        super().__init__(REFUSALS["INSUFFICIENT_SCOPES"])
        self.scopes = scopes


class InvalidParameterError(Exception):
    """A parameter of forward-auth isn't valid, so the request is denied; the message says why."""

    def __init__(self, name: str, problem: str) -> None:
        self.name = "…" if resembles_key(name) else name[:_SHOWN_LENGTH]
        super().__init__(f"The parameter “{self.name}” {problem}")


class Asked(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The body of a valid request to verify a key."""

    api_key: str
    scopes: tuple[str, ...] = ()


class _Answer(msgspec.Struct, gc=False):
    """A verdict as JSON; unset fields are left out."""

    valid: bool
    code: str
    position: int
    key_id: str | msgspec.UnsetType = msgspec.UNSET
    name: str | msgspec.UnsetType = msgspec.UNSET
    workspace: str | msgspec.UnsetType = msgspec.UNSET
    scopes: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    expires_at: str | msgspec.UnsetType | None = msgspec.UNSET


_asked = msgspec.json.Decoder(Asked)
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class VerdictEndpoints:
    """The endpoints verify and forward-auth."""

    verifier: Verifier
    authenticate: Authenticator
    counted: Callable[[str], object] = lambda _: None  # called with each code, or UNAVAILABLE

    def verify(self, context: RequestContext) -> Answer | None:
        """Raises what `caller` and `verdict` raise."""
        environ = context.environ
        if environ["REQUEST_METHOD"] != "POST" or environ["QUERY_STRING"]:
            return None
        asked = _body(context)
        min_position = _minimum_position(environ.get("HTTP_X_LEDGER_POSITION", "0"))
        if asked is None or min_position is None:
            return None
        return Answer(_JSON, to_json(self.verdict(self.caller(context), asked, min_position)))

    def caller(self, context: RequestContext) -> Principal:
        """Returns who asks for a verdict. Raises UnauthenticatedError, ForbiddenError, redis.RedisError."""
        principal = context.caller(self.authenticate)
        if not principal.may(PLATFORM_VERIFY):
            authorize(principal, KEYS_VERIFY)
        return principal

    def verdict(self, caller: Principal, asked: Asked, min_position: int) -> Verdict:
        """The verdict that the caller may see. Raises BehindError, UnreadableEventError, redis.RedisError."""
        workspace = None if caller.may(PLATFORM_VERIFY) else caller.workspace
        return self._verdict(asked.api_key, asked.scopes, workspace, min_position)

    def forward_auth(self, context: RequestContext) -> Answer:
        """Raises InvalidParameterError, UnauthenticatedError, ScopesLackingError, UnreadableEventError,
        redis.RedisError.
        """
        scopes, workspace = _gate(context.environ["QUERY_STRING"])
        verdict = self._verdict(context.bearer_token, scopes, workspace, 0)
        key = verdict.key
        if verdict.code == "INSUFFICIENT_SCOPES":
            raise ScopesLackingError(scopes)
        if verdict.code != "VALID" or key is None:
            raise InvalidKeyError(REFUSALS[verdict.code])
        return Answer(_identity_headers(key.id, key.workspace, key.scopes), b"")

    def _verdict(
        self, token: str, scopes: Sequence[str], workspace: str | None, min_position: int
    ) -> Verdict:
        try:
            verdict = self.verifier(token, scopes, workspace, min_position)
        except Exception:
            self.counted(UNAVAILABLE)
            raise
        self.counted(verdict.code)
        return verdict


def to_json(verdict: Verdict) -> bytes:
    key = verdict.key
    if key is None:
        return _encode(_Answer(False, verdict.code, verdict.position))
    ends = None if key.expires_at is None else rfc3339(key.expires_at)
    valid = verdict.code == "VALID"
    return _encode(
        _Answer(valid, verdict.code, verdict.position, key.id, key.name, key.workspace, key.scopes, ends)
    )


def _body(context: RequestContext) -> Asked | None:
    """Returns None where the body isn't plain or isn't valid; Flask's view then says why."""
    body = context.plain_json
    if body is None or _may_repeat(body):
        return None
    try:
        asked = _asked.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return asked if len(asked.scopes) <= MAX_SCOPES else None


def _may_repeat(body: bytes) -> bool:
    """Whether a name may occur twice in a body, plain or escaped: msgspec would take the last value."""
    return body.count(b'"api_key"') > 1 or body.count(b'"scopes"') > 1 or b"\\" in body


def _minimum_position(named: str) -> int | None:
    """The position that the verdict has to be at least as new as; None where the header isn't valid."""
    return int(named) if named.isascii() and named.isdecimal() and len(named) <= _POSITION_DIGITS else None


class _Gate(NamedTuple):
    """What a gateway requires of a key: all of the scopes, and optionally a workspace."""

    scopes: tuple[str, ...]
    workspace: str | None


@lru_cache(256)
def _gate(query: str) -> _Gate:
    """Parses the query of forward-auth. A missing parameter requires nothing.

    Raises InvalidParameterError for anything else: a rule with a typo must deny every request.
    """
    given: dict[str, str] = {}
    for parameter in query.split("&") if query else ():
        name, _, value = map(unquote_plus, parameter.partition("="))
        if name not in _PARAMETERS:
            raise InvalidParameterError(name, f"isn't known. Use {' or '.join(_PARAMETERS)}.")
        if name in given:
            raise InvalidParameterError(name, "is repeated. Send it once; separate scopes with commas.")
        if not value.replace(",", " ").strip():
            raise InvalidParameterError(name, "is empty. Give it a value or leave it out.")
        given[name] = value
    workspace = given.get("workspace")
    if workspace is not None and not is_workspace_name(workspace):
        raise InvalidParameterError("workspace", f"must be a workspace's name: {WORKSPACE_RULE}.")
    return _Gate(_scopes(given.get("scopes", "")), workspace)


def _scopes(given: str) -> tuple[str, ...]:
    scopes = tuple(given.replace(",", " ").split())
    if len(scopes) > MAX_SCOPES:
        raise InvalidParameterError("scopes", f"has {len(scopes)} scopes. Up to {MAX_SCOPES} are allowed.")
    try:
        check_scopes(scopes)
    except ValidationError as error:
        raise InvalidParameterError("scopes", f"isn't valid: {error.messages[0]}") from error
    return scopes


@lru_cache(1024)
def _identity_headers(key_id: str, workspace: str, scopes: tuple[str, ...]) -> Headers:
    return (
        ("X-Keyledger-Key-Id", key_id),
        ("X-Keyledger-Workspace", _of_header(workspace)),
        ("X-Keyledger-Scopes", " ".join(map(_of_header, scopes))),
        _NO_STORE,
    )


def _of_header(text: str) -> str:
    """A name in a header: percent-encoded as UTF-8, unless it is plain ASCII without spaces."""
    is_plain = text.isascii() and text.isprintable() and " " not in text and "%" not in text
    return text if is_plain else quote(text)
