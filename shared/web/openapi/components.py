"""What all endpoints share in the OpenAPI description: headers, authentication and the overview."""

from typing import Any

from shared.identity import SCOPES

Json = dict[str, Any]


def _header(description: str, example: Any, **schema: Any) -> Json:
    return {"description": description, "schema": {"type": "string"} | schema, "example": example}


HEADERS = {
    "X-Request-Id": {
        "required": True,
        **_header("ID of the request, as in events and logs.", "checkout-42"),
    },
    "X-Ledger-Position": _header(
        "Ledger position that the response includes. To read your own write, send that of the write.",
        17,
        type="integer",
        minimum=0,
    ),
    "X-Ledger-Behind": _header(
        "Present if the views didn't reach the requested position within 2 s.", "true", const="true"
    ),
    "ETag": _header("Version of the key, for If-Match.", '"3"', pattern='^"[0-9]+"$'),
    "Location": _header("URL of the new key.", "/v1/keys/3fA9bQ27LmZ0", format="uri-reference"),
    "Allow": _header("Methods that the URL accepts.", "DELETE, GET, HEAD, OPTIONS, PATCH"),
    "Accept": _header("Media type that the body must have.", "application/json"),
    "Accept-Encoding": _header("Content coding that the body must have.", "identity"),
    "X-Keyledger-Key-Id": _header("ID of the key.", "3fA9bQ27LmZ0"),
    "X-Keyledger-Workspace": _header("Workspace of the key.", "default"),
    "X-Keyledger-Scopes": _header("Scopes of the key, separated by spaces.", "orders:read"),
    "WWW-Authenticate": _header(
        "How to authenticate (RFC 6750). `error` says what is wrong with the key, and `scope` which scope it "
        "lacks.",
        'Bearer error="insufficient_scope", scope="keyledger:keys.write"',
    ),
    "Retry-After": _header("Seconds to wait before you retry.", 1, type="integer", minimum=1),
}

REQUEST_ID: Json = {
    "in": "header",
    "name": "X-Request-Id",
    "description": "Your ID for this request, to find it in events and logs: 1 to 64 letters, digits and "
    ". _ -. Any other value is replaced.",
    "required": False,
    "schema": {"type": "string"},
    "example": "checkout-42",
}

BEARER = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "Keyledger API key",
    "description": "A Keyledger API key in the header `Authorization: Bearer kl_…`. Its scopes determine "
    "what it can do:\n\n" + "\n".join(f"- `{scope}`: {allows}" for scope, allows in SCOPES.items()),
}

_ABOUT = """\
API keys with a tamper-evident history. Every change to a key is an event in a ledger, with its actor and \
time. Keys are verified from memory.

Bodies are JSON. Times are RFC 3339 in UTC with milliseconds. Errors are `application/problem+json` \
(RFC 9457): `detail` says what to do, `code` never changes, so use it in your program, and `type` links to \
the code's section of `/docs/problems`. Responses may get additional fields, so ignore \
unknown ones.

**Retry safely.** Send an `Idempotency-Key` with a POST. If you repeat the same request, it isn't carried \
out again. The secret isn't returned again either: if you lost it, rotate the key.

**Read your own writes.** Each request that changes something returns `X-Ledger-Position`. Send it with a \
read, and Keyledger waits until the response includes the change.

**Avoid overwriting changes.** Send the `ETag` of a response as `If-Match`, and the change only succeeds if \
nobody has changed the key since.

**Limits.** A body can have up to 64 KiB, and a page up to 200 rows. The operator limits how many requests \
per second each key can make. Above that, the response is 429 with `Retry-After`. Verification isn't \
limited."""

FRAME: Json = {
    "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
    "servers": [{"url": "/"}],
}

INFO: Json = {
    "title": "Keyledger",
    "summary": "API keys with a tamper-evident history",
    "description": _ABOUT,
}
