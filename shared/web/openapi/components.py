"""The parts that all calls have in common in the description of the interface."""

from typing import Any

from shared.identity import SCOPES

Json = dict[str, Any]


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
    "Location": _header("The URL of what was created.", "/v1/keys/3fA9bQ27LmZ0", format="uri-reference"),
    "Allow": _header("The methods that the URL accepts.", "DELETE, GET, HEAD, OPTIONS, PATCH"),
    "Accept": _header("The media type that a body must have.", "application/json"),
    "Accept-Encoding": _header("The content coding that a body must have.", "identity"),
    "X-Keyledger-Key-Id": _header("Which key it is.", "3fA9bQ27LmZ0"),
    "X-Keyledger-Workspace": _header("Whose it is.", "default"),
    "X-Keyledger-Scopes": _header("What its bearer may do, with blanks between.", "orders:read"),
    "WWW-Authenticate": _header(
        "How to authenticate (RFC 6750): `error` says what is wrong with the key that was sent, `scope` what "
        "it lacks.",
        'Bearer error="insufficient_scope", scope="keyledger:keys.write"',
    ),
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
(RFC 9457): `detail` says what to do next, `code` stays the same for programs, and `type` is its section of \
`/docs/problems`. Answers may get more fields; do not rely on there being none.

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
