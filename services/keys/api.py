"""The JSON calls on keys. They only translate: who, what, do it, answer."""

from typing import Any

from flask import Response, request
from flask_smorest import Blueprint

from services.keys.commands import Done, NewKey, NoSuchKeyError, StaleVersionError, fold
from services.keys.domain import Key, ChangeKey
from services.keys.moments import Moment, MomentError, NotYetCreatedError
from services.keys.schemas import (
    CreatedKeySchema,
    HistoryQuerySchema,
    HistorySchema,
    KeyChangeSchema,
    KeyListSchema,
    KeyQuerySchema,
    KeySchema,
    ListQuerySchema,
    NewKeySchema,
    presented,
)
from services.keys.service import Keys
from shared.identity import KEYS_READ, KEYS_WRITE, Principal
from shared.timestamps import rfc3339
from shared.web.access import attached, bearer, idempotency, origin
from shared.web.app import refuse

_POSITION = "X-Ledger-Position"
_BEHIND = "X-Ledger-Behind"

_SHOWN_ONCE = (
    "The whole key was in the first answer to this request and is stored nowhere. "
    "If it was lost, switch this key off and create another."
)

blueprint = Blueprint("keys_api", __name__, url_prefix="/v1/keys", description="API keys")


@blueprint.route("", methods=["POST"])
@bearer(KEYS_WRITE)
@blueprint.arguments(NewKeySchema)
@blueprint.response(201, CreatedKeySchema)
def create_key(principal: Principal, new: NewKey) -> Any:
    """Create a key. The answer is the only one that ever holds it whole."""
    done = attached(Keys).commands.create(principal, new, origin(), idempotency(principal))
    extra = {"api_key": done.api_key.reveal()} if done.api_key else {"notice": _SHOWN_ONCE}
    return presented(done.key) | extra, 201, _headers(done)


@blueprint.route("", methods=["GET"])
@bearer(KEYS_READ)
@blueprint.arguments(ListQuerySchema, location="query")
@blueprint.response(200, KeyListSchema)
def list_keys(principal: Principal, query: dict[str, Any]) -> Any:
    """List the keys of your workspace, newest first."""
    headers = _wait_for(query["after"])
    page = attached(Keys).page(principal, query["limit"], query["cursor"])
    return {"keys": map(presented, page.keys), "next_cursor": page.next_cursor}, 200, headers


@blueprint.route("/<key_id>", methods=["GET"])
@bearer(KEYS_READ)
@blueprint.arguments(KeyQuerySchema, location="query")
@blueprint.response(200, KeySchema)
def read_key(principal: Principal, query: dict[str, Any], key_id: str) -> Any:
    """Read one key, as it is or as it was."""
    if query["at"] is not None:
        return _past_key(principal, key_id, query["at"])
    headers = _wait_for(query["after"])
    key = attached(Keys).find(principal, key_id)
    return presented(key), 200, headers | {"ETag": _etag(key)}


@blueprint.route("/<key_id>", methods=["PATCH"])
@bearer(KEYS_WRITE)
@blueprint.arguments(KeyChangeSchema)
@blueprint.response(200, KeySchema)
def change_key(principal: Principal, command: ChangeKey, key_id: str) -> Any:
    """Switch a key on or off. Where it is so already, nothing happens."""
    done = attached(Keys).commands.change(principal, key_id, command, origin(), _if_match())
    return presented(done.key), 200, _headers(done)


@blueprint.route("/<key_id>/history", methods=["GET"])
@bearer(KEYS_READ)
@blueprint.arguments(HistoryQuerySchema, location="query")
@blueprint.response(200, HistorySchema)
def read_history(principal: Principal, query: dict[str, Any], key_id: str) -> Any:
    """Read the events of a key, oldest first."""
    events = attached(Keys).commands.history(principal, key_id)[query["cursor"] :]
    page = events[: query["limit"]]
    more = len(events) > len(page)
    return {"events": page, "next_cursor": page[-1].version if more else None}


def no_such_key(_: NoSuchKeyError) -> Response:
    """404, also for a key of another workspace."""
    return refuse(404, "There is no such API key in your workspace. GET /v1/keys lists those that there are.")


def stale_version(error: StaleVersionError) -> Response:
    """412: If-Match names a version that is no longer the key's."""
    detail = f"{error} Read it again, and send your change with its new ETag in If-Match."
    return refuse(412, detail, {"ETag": f'"{error.actual}"'})


def no_such_moment(error: MomentError) -> Response:
    """422: a time or a position that is no good."""
    rows = [{"field": "at", "message": str(error)}]
    return refuse(422, f"There is no such moment to show. {error}", errors=rows)


def not_yet_created(error: NotYetCreatedError) -> Response:
    """404: a key of the caller's own workspace, before it came to be."""
    created = error.created
    detail = (
        f"There was no such API key then: it was created at {rfc3339(created.at)}, "
        f"position {created.position} of the ledger. Ask for that moment or a later one."
    )
    return refuse(404, detail)


def _past_key(principal: Principal, key_id: str, moment: Moment) -> Any:
    """Read from the ledger itself, which has all that it acknowledged, so there is nothing to wait for."""
    past = attached(Keys).past(principal, key_id, moment)
    key = fold(list(past.before))
    return presented(key, past.at), 200, {_POSITION: str(past.last.position), "ETag": _etag(key)}


def _wait_for(after: int) -> dict[str, str]:
    """Lets a caller read its writes: waits for the position that it names in the query or the header."""
    named = request.headers.get(_POSITION, "")
    position = max(after, int(named) if named.isdecimal() else 0)
    views = attached(Keys).views
    behind = not views.wait_for(position)
    return {_POSITION: str(views.live().checkpoint().position)} | ({_BEHIND: "true"} if behind else {})


def _headers(done: Done) -> dict[str, str]:
    return {_POSITION: str(done.position), "ETag": _etag(done.key)}


def _etag(key: Key) -> str:
    return f'"{key.version}"'


def _if_match() -> int | None:
    """The version that the caller saw; None, if any will do; 0, which no key has, if it is none of ours."""
    tag = request.headers.get("If-Match", "*").strip().strip('"')
    return None if tag == "*" else int(tag) if tag.isdecimal() else 0
