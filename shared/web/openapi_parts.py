"""The parts that all calls have in common in the description of the interface."""

from http import HTTPStatus
from typing import Any, NamedTuple

from shared.identity import ADMIN, AUDIT_READ, KEYS_READ, KEYS_VERIFY, KEYS_WRITE, PLATFORM_VERIFY

Json = dict[str, Any]


class Refusal(NamedTuple):
    """An error that calls answer."""

    name: str
    description: str
    detail: str  # of the example
    headers: tuple[str, ...] = ()
    errors: tuple[dict[str, str], ...] = ()


ERRORS = {
    "400": Refusal(
        "NotJson",
        "The body isn't valid JSON. Of forward-auth: a parameter isn't valid; `errors` names it.",
        "The body is not valid JSON. Mend it and send the request again.",
    ),
    "401": Refusal(
        "Unauthenticated",
        "There is no key in the request, or none that is good.",
        "This API key is switched off. Switch it on in Keys' Details, or use another.",
        headers=("WWW-Authenticate",),
    ),
    "403": Refusal(
        "Forbidden",
        "The key lacks a scope: the call's own, or one that the changed key would hold. "
        "Or its secret was rotated, and in its grace period only reads and verifies.",
        f"This needs the scope {KEYS_WRITE}. Ask an owner of this workspace for it.",
    ),
    "404": Refusal(
        "NotFound",
        "There is no such key in your workspace.",
        "There is no such API key in your workspace. Keys' Details and GET /v1/keys list yours.",
    ),
    "409": Refusal(
        "Conflict",
        "The key's state does not allow it, or others changed it at the same moment again and again.",
        "This key was revoked, which is for good. Create another.",
    ),
    "412": Refusal(
        "Stale",
        "If-Match names a version that is no longer the key's. ETag has the one that it is at.",
        "The key is at version 4 now. Read it again, and send your change with its new ETag in If-Match.",
        headers=("ETag",),
    ),
    "413": Refusal("TooLarge", "The body is too large.", "The body is too large; 64 KiB are the most."),
    "415": Refusal(
        "NotJsonByName",
        "The body is not called JSON.",
        "Send a JSON body with the header Content-Type: application/json.",
    ),
    "422": Refusal(
        "Invalid",
        "A field, an argument or a header is not as it must be; `errors` names each. "
        "Or an Idempotency-Key was used before, for another request.",
        "Mend the fields that `errors` names and send the request again.",
        errors=({"field": "name", "message": "It may have 100 characters at most."},),
    ),
    "429": Refusal(
        "TooManyRequests",
        "Your key asked too often. Retry-After says when it may again.",
        "Too many requests with this key. Wait 1 s, then go on more slowly.",
        headers=("Retry-After",),
    ),
    "503": Refusal(
        "Unavailable",
        "The store does not answer. Whether a command was carried out is not known then: send the same again "
        "with the same Idempotency-Key, or look before you repeat it.",
        "The store does not answer at the moment. Try again in a few seconds.",
        headers=("Retry-After",),
    ),
}


def problem_example(status: str) -> Json:
    """The body of an error."""
    refusal = ERRORS[status]
    body = {
        "title": HTTPStatus(int(status)).phrase,
        "status": int(status),
        "detail": refusal.detail,
        "request_id": "checkout-42",
    }
    return body | ({"errors": list(refusal.errors)} if refusal.errors else {})


def _header(description: str, example: Any, **schema: Any) -> Json:
    return {"description": description, "schema": {"type": "string"} | schema, "example": example}


HEADERS = {
    "X-Request-Id": {
        "required": True,
        **_header("The name of this request, as events and logs have it.", "checkout-42"),
    },
    "X-Ledger-Position": _header(
        "How far the ledger has been seen. Send that of a command back with a read, to read what you wrote.",
        17,
        type="integer",
        minimum=0,
    ),
    "X-Ledger-Behind": _header(
        "There if the views had not come to the position that was asked for within 2 s.", "true", const="true"
    ),
    "ETag": _header("The version of the key, for If-Match.", '"3"', pattern='^"[0-9]+"$'),
    "X-Keyledger-Key-Id": _header("Which key it is.", "3fA9bQ27LmZ0"),
    "X-Keyledger-Workspace": _header("Whose it is.", "default"),
    "X-Keyledger-Scopes": _header("What its bearer may do, with blanks between.", "orders:read"),
    "WWW-Authenticate": _header("How to authenticate.", "Bearer"),
    "Retry-After": _header("After how many seconds to try again.", 1, type="integer", minimum=1),
}

REQUEST_ID: Json = {
    "in": "header",
    "name": "X-Request-Id",
    "description": "A name of your own for this request, to find it in events and logs: 1 to 64 of "
    "letters, digits and . _ -; any other is replaced.",
    "required": False,
    "schema": {"type": "string"},
    "example": "checkout-42",
}

SCOPES = {
    KEYS_READ: "list keys, read them, their history and their use",
    KEYS_WRITE: "create keys, change, rotate and revoke them",
    KEYS_VERIFY: "verify keys of its own workspace",
    PLATFORM_VERIFY: "verify keys of all workspaces",
    AUDIT_READ: "read the audit log",
    ADMIN: "all of this in its workspace",
}

BEARER = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "Keyledger API key",
    "description": "A Keyledger API key, in the header `Authorization: Bearer kl_…`. Its scopes say what it "
    "may do:\n\n" + "\n".join(f"- `{scope}`: {allows}" for scope, allows in SCOPES.items()),
}

_ABOUT = """\
API keys whose truth is a ledger of events: created, switched, changed, rotated and revoked, each time with \
who did it and when; verified at memory speed.

Bodies are JSON. Times are RFC 3339 in UTC with milliseconds. Errors are `application/problem+json` \
(RFC 9457) and say what to do next. Answers may get more fields; do not rely on there being none.

**Repeat safely.** Send an `Idempotency-Key` with a POST: the same request sent again does nothing more. \
A secret is shown once all the same; if it was lost, rotate the key.

**Read what you wrote.** Every command answers with `X-Ledger-Position`. A read that sends it back waits \
until it has seen that command.

**Change what you saw.** An answer's `ETag` sent back as `If-Match` lets a change pass only if nobody else \
was faster.

**Limits.** A body has 64 KiB at most, a page 200 rows. Each key may ask so often a second as the operator \
has set; beyond that the answer is 429 with `Retry-After`. Verifying is not limited."""

FRAME: Json = {
    "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
    "servers": [{"url": "/"}],
}

INFO: Json = {
    "title": "Keyledger",
    "summary": "API keys on a ledger of events",
    "description": _ABOUT,
}
