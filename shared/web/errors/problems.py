"""Errors as `application/problem+json` (RFC 9457): one table of all of them, in one shape for every call.

The page /docs/problems and the OpenAPI description are made from the table.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from flask import Response, g, json

CATALOGUE = "/docs/problems"
SERVER_ERROR = 500


class Problem(NamedTuple):
    """What one code stands for. Its title is ours: the phrases of HTTP change between versions of Python."""

    status: int
    title: str
    meaning: str
    example: str  # a `detail`, which says what to do next
    headers: tuple[str, ...] = ()
    errors: tuple[Mapping[str, str], ...] = ()


_NAME_TOO_LONG = MappingProxyType({"field": "name", "message": "Use up to 100 characters."})
_UNKNOWN_PARAMETER = MappingProxyType(
    {"field": "scope", "message": "The parameter “scope” isn't known. Use scopes or workspace."}
)

# The first of a status is what its errors are without a code of their own.
PROBLEMS: Mapping[str, Problem] = MappingProxyType(
    {
        "bad_request": Problem(
            400, "Bad request", "The request can't be read.", "Correct the request and send it again."
        ),
        "invalid_json": Problem(
            400,
            "Invalid JSON",
            "The body isn't valid JSON.",
            "The body isn't valid JSON. Correct it and send the request again.",
        ),
        "invalid_parameter": Problem(
            400,
            "Invalid parameter",
            "A parameter of forward-auth is unknown, empty, repeated or invalid. `errors` names it.",
            "The parameter “scope” isn't known. Use scopes or workspace. "
            "Correct the gateway's configuration.",
            errors=(_UNKNOWN_PARAMETER,),
        ),
        "missing_key": Problem(
            401,
            "Missing API key",
            "The request carries no API key.",
            "Send a Keyledger API key in the header Authorization: Bearer <key>.",
            headers=("WWW-Authenticate",),
        ),
        "invalid_key": Problem(
            401,
            "Invalid API key",
            "The API key is malformed, unknown, revoked, disabled or expired.",
            "This API key is disabled. Enable it in Keys' Details, or use another.",
            headers=("WWW-Authenticate",),
        ),
        "forbidden": Problem(403, "Forbidden", "You aren't allowed to do this.", "You don't have access."),
        "insufficient_scope": Problem(
            403,
            "Insufficient scope",
            "Your key lacks a scope: the call's own, or one that the changed key would hold. `scope` in "
            "WWW-Authenticate names it.",
            "This needs the scope keyledger:keys.write. Ask an owner of this workspace for it.",
            headers=("WWW-Authenticate",),
        ),
        "rotated_secret": Problem(
            403,
            "Rotated secret",
            "The secret was rotated. During its grace period, it can only read and verify.",
            "This secret was rotated. Until its grace period ends it can only read and verify. "
            "Use the key's current secret.",
            headers=("WWW-Authenticate",),
        ),
        "not_found": Problem(
            404,
            "Not found",
            "There is nothing at this URL.",
            "There is nothing at this URL. Check it, or start at /.",
        ),
        "key_not_found": Problem(
            404,
            "Key not found",
            "Your workspace has no such key.",
            "No such key in this workspace. GET /v1/keys lists its keys.",
        ),
        "key_not_created_yet": Problem(
            404,
            "Key not created yet",
            "The key didn't exist yet at the point in time given in `at`.",
            "The key was created at 2026-11-23T18:59:21.123Z, position 17. "
            "Use that or a later point in time.",
        ),
        "method_not_allowed": Problem(
            405,
            "Method not allowed",
            "The URL doesn't accept this method. The header Allow lists those it accepts.",
            "This URL doesn't accept this method. Use one that the header Allow lists.",
            headers=("Allow",),
        ),
        "body_timeout": Problem(
            408,
            "Body timeout",
            "The body didn't arrive in time.",
            "The body didn't arrive in time. Send the request again.",
        ),
        "conflict": Problem(
            409,
            "Conflict",
            "Other requests kept changing the same key or account.",
            "This was changed by another request at the same time. Read it again and repeat your change.",
        ),
        "key_revoked": Problem(
            409,
            "Key revoked",
            "The key is revoked, so it can't be changed.",
            "This key was permanently revoked. Create another.",
        ),
        "key_expired": Problem(
            409,
            "Key expired",
            "The key has expired, so it can't be rotated.",
            "This key has expired. Set a later expires_at first, or create another key.",
        ),
        "stale_version": Problem(
            412,
            "Stale version",
            "The key's version isn't one of those in `If-Match`. ETag has the current one.",
            "The key is at version 4, which isn't in If-Match. Get the key again, then retry with its "
            "current ETag.",
            headers=("ETag",),
        ),
        "body_too_large": Problem(
            413, "Body too large", "The body is too large.", "The body is too large. Send up to 64 KiB."
        ),
        "unsupported_media_type": Problem(
            415,
            "Unsupported media type",
            "The body isn't declared as JSON.",
            "Send a JSON body with the header Content-Type: application/json.",
            headers=("Accept",),
        ),
        "unsupported_encoding": Problem(
            415,
            "Unsupported content encoding",
            "The body is compressed.",
            "The body can't have the content encoding “gzip”. Send it uncompressed.",
            headers=("Accept-Encoding",),
        ),
        "invalid_fields": Problem(
            422,
            "Invalid fields",
            "A field, a parameter or a header is invalid. `errors` lists each of them.",
            "Fix the fields listed in `errors` and retry.",
            errors=(_NAME_TOO_LONG,),
        ),
        "idempotency_key_reused": Problem(
            422,
            "Idempotency key reused",
            "The Idempotency-Key was used for another request.",
            "This Idempotency-Key was used for another request. Use a new one for a new request.",
        ),
        "rate_limited": Problem(
            429,
            "Too many requests",
            "Your key sends too many requests. Retry-After says when to continue.",
            "Too many requests with this key. Wait 1 s, then send requests more slowly.",
            headers=("Retry-After",),
        ),
        "export_limit": Problem(
            429,
            "Too many exports",
            "You started too many exports of the audit log. Retry-After says when to continue.",
            "You can start 10 exports a minute. Wait 42 s, then try again.",
            headers=("Retry-After",),
        ),
        "internal_error": Problem(
            SERVER_ERROR,
            "Internal error",
            "Keyledger failed to handle the request.",
            "Internal error. Retry; if it persists, report the request ID.",
        ),
        "unavailable": Problem(
            503,
            "Temporarily unavailable",
            "The request can't be answered right now. Retry-After says when to retry.",
            "This is unavailable at the moment. Try again in a few seconds.",
            headers=("Retry-After",),
        ),
        "entry_changed": Problem(
            503,
            "Audit entry changed",
            "An entry of the audit log doesn't match the ledger, so it isn't exported or signed.",
            "The entry at position 17 was changed, so nothing was exported. Ask the operator to run "
            "`keyledger audit check`.",
        ),
        "store_unavailable": Problem(
            503,
            "Store unavailable",
            "The store doesn't answer, so it's unknown whether a command was carried out. Retry with the "
            "same Idempotency-Key, or check before you repeat it.",
            "The store doesn't answer at the moment. Try again in a few seconds.",
            headers=("Retry-After",),
        ),
        "store_full": Problem(
            503,
            "Store full",
            "The store is out of memory, so nothing was done.",
            "Nothing was done: the store is out of memory. Ask your operator to increase its memory limit.",
            headers=("Retry-After",),
        ),
        "unreadable_history": Problem(
            503,
            "Unreadable history",
            "The history has an event that this version of Keyledger can't read.",
            "This version of Keyledger can't read the history. Update Keyledger.",
            headers=("Retry-After",),
        ),
        "position_not_reached": Problem(
            503,
            "Position not reached",
            "The ledger hasn't reached the position at which the verdict was requested.",
            "The ledger is at position 17 and hasn't reached the one you asked for. Try again in a second.",
            headers=("Retry-After", "X-Ledger-Position"),
        ),
    }
)
_BY_STATUS: Mapping[int, str] = MappingProxyType(
    {PROBLEMS[code].status: code for code in reversed([*PROBLEMS])}
)


class Refusal(NamedTuple):
    """Which problem it is, and with which status."""

    code: str
    status: int

    @classmethod
    def of(cls, named: str | int) -> "Refusal":
        """By a code, or by a status, which has a code by default."""
        if isinstance(named, str):
            return cls(named, PROBLEMS[named].status)
        default = "internal_error" if named >= SERVER_ERROR else "bad_request"
        return cls(_BY_STATUS.get(named, default), named)

    @property
    def title(self) -> str:
        """The same for all problems of this code."""
        return PROBLEMS[self.code].title

    def body(self, detail: str, request_id: str, errors: Sequence[Mapping[str, str]] = ()) -> dict[str, Any]:
        """The problem as JSON. `errors` has `field` and `message` for each field that isn't valid."""
        problem = {
            "type": f"{CATALOGUE}#{self.code}",
            "code": self.code,
            "title": self.title,
            "status": self.status,
            "detail": detail,
            "request_id": request_id,
        }
        return problem | ({"errors": [dict(row) for row in errors]} if errors else {})


def problem(
    refusal: Refusal,
    detail: str,
    errors: Sequence[Mapping[str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An answer that says what is wrong and what to do next."""
    body = json.dumps(refusal.body(detail, g.request_id, errors))
    response = Response(body, refusal.status, headers, content_type="application/problem+json")
    response.headers["Cache-Control"] = "no-store"
    return response


def challenge(error: str = "", *scopes: str) -> dict[str, str]:
    """The header WWW-Authenticate by RFC 6750, without an error where no key was sent."""
    value = "Bearer"
    if error:
        value += f' error="{error}"'
    if scopes:
        value += f', scope="{" ".join(scopes)}"'
    return {"WWW-Authenticate": value}
