"""The API for keys."""

from typing import Any

from flask import Response

from services.keys.commands import NoSuchKeyError, StaleVersionError
from services.keys.model.key import ChangeKey, Key, KeyRevokedError, RefusedError
from services.keys.model.point_in_time import NotYetCreatedError
from services.keys.queries import Keys
from services.keys.web.create_endpoint import command_headers, created_headers, shown_once
from services.keys.web.schemas import (
    HistoryQuerySchema,
    HistorySchema,
    KeyListSchema,
    KeyPatchSchema,
    KeyQuerySchema,
    KeySchema,
    ListQuerySchema,
    NewKeySchema,
    NewSecretSchema,
    RevocationSchema,
    RotationSchema,
    presented,
)
from shared.clock import rfc3339
from shared.eventstore.events import KeyDetails
from shared.eventstore.point_in_time import PointInTime, PointInTimeError
from shared.identity import KEYS_READ, KEYS_WRITE, Principal
from shared.web.access import attached, bearer, idempotency, origin
from shared.web.errors.handlers import refuse
from shared.web.json_requests import Calls
from shared.web.openapi.document import headers, path_parameter
from shared.web.schemas import IdempotencySchema, IfMatchSchema, PositionHeaderSchema

_POSITION = "X-Ledger-Position"
_BEHIND = "X-Ledger-Behind"

ONE_KEY = path_parameter("key_id", "The ID of a key.", "3fA9bQ27LmZ0")
_COMMANDED = headers(_POSITION, "ETag")
_CREATED = _COMMANDED | headers("Location")
_READ = headers(_POSITION, _BEHIND)

blueprint = Calls("keys_api", __name__, url_prefix="/v1/keys", description="API keys")


@blueprint.route("", methods=["POST"])
@bearer(KEYS_WRITE)
@blueprint.without_query
@blueprint.arguments(IdempotencySchema, location="headers", as_kwargs=True)
@blueprint.arguments(NewKeySchema)
@blueprint.response(201, NewSecretSchema, description="The key was created.", headers=_CREATED)
def create_key(principal: Principal, new: KeyDetails, idempotency_key: str | None) -> Any:
    """Create a key

    Only this response contains the whole key.
    """
    keyed = idempotency(principal, idempotency_key)
    done = attached(Keys).commands.create(principal, new, origin(), keyed)
    return shown_once(done), 201, created_headers(done)


@blueprint.route("", methods=["GET"])
@bearer(KEYS_READ)
@blueprint.arguments(PositionHeaderSchema, location="headers", as_kwargs=True)
@blueprint.arguments(ListQuerySchema, location="query")
@blueprint.response(200, KeyListSchema, description="A page of the list.", headers=_READ)
def list_keys(principal: Principal, query: dict[str, Any], ledger_position: int) -> Any:
    """List the keys of your workspace

    A page examines a limited number of keys. If few of them match, it can be short or even empty and still
    not be the last one. Follow `next_cursor` until it is null.
    """
    reached = attached(Keys).reached(max(query["after"], ledger_position))
    page = attached(Keys).page(principal, query["limit"], query["cursor"], query["criteria"])
    return (
        {"keys": map(presented, page.keys), "next_cursor": page.next_cursor},
        200,
        _position_headers(*reached),
    )


@blueprint.route("/<key_id>", methods=["GET"], parameters=ONE_KEY)
@bearer(KEYS_READ)
@blueprint.arguments(PositionHeaderSchema, location="headers", as_kwargs=True)
@blueprint.arguments(KeyQuerySchema, location="query")
@blueprint.response(200, KeySchema, description="The key.", headers=_READ | headers("ETag"))
def read_key(principal: Principal, query: dict[str, Any], ledger_position: int, key_id: str) -> Any:
    """Get a key, now or at a point in time"""
    if query["at"] is not None:
        return _past_key(principal, key_id, query["at"])
    after = max(query["after"], ledger_position)
    key, reached, behind = attached(Keys).find(principal, key_id, after)
    return presented(key), 200, _position_headers(reached, behind) | {"ETag": _etag(key)}


@blueprint.route("/<key_id>", methods=["PATCH"], parameters=ONE_KEY)
@bearer(KEYS_WRITE)
@blueprint.without_query
@blueprint.arguments(IfMatchSchema, location="headers", as_kwargs=True)
@blueprint.arguments(KeyPatchSchema)
@blueprint.response(200, KeySchema, description="The key as it is now.", headers=_COMMANDED)
def change_key(principal: Principal, command: ChangeKey, if_match: frozenset[int] | None, key_id: str) -> Any:
    """Change a key

    Enables, disables or renames the key, or changes its description, scopes or expiry. A request that changes
    nothing records no event. A revoked key can't be changed.
    """
    done = attached(Keys).commands.change(principal, key_id, command, origin(), if_match)
    return presented(done.key), 200, command_headers(done)


@blueprint.route("/<key_id>/rotate", methods=["POST"], parameters=ONE_KEY)
@bearer(KEYS_WRITE)
@blueprint.without_query
@blueprint.arguments(IfMatchSchema, location="headers", as_kwargs=True)
@blueprint.arguments(IdempotencySchema, location="headers", as_kwargs=True)
@blueprint.arguments(RotationSchema, required=False)
@blueprint.response(200, NewSecretSchema, description="The key with its new secret.", headers=_COMMANDED)
def rotate_key(
    principal: Principal,
    rotation: dict[str, int],
    if_match: frozenset[int] | None,
    idempotency_key: str | None,
    key_id: str,
) -> Any:
    """Rotate the secret of a key

    The key keeps its ID and everything else. The old secret stays valid for the grace period that you choose,
    and any secret before it stops working. You need every scope that the key holds.
    """
    keyed = idempotency(principal, idempotency_key)
    done = attached(Keys).commands.rotate(
        principal, key_id, rotation["grace_seconds"], origin(), keyed, if_match
    )
    return shown_once(done), 200, command_headers(done)


@blueprint.route("/<key_id>", methods=["DELETE"], parameters=ONE_KEY)
@bearer(KEYS_WRITE)
@blueprint.arguments(IfMatchSchema, location="headers", as_kwargs=True)
@blueprint.arguments(RevocationSchema, location="query")
@blueprint.response(200, KeySchema, description="The key, revoked.", headers=_COMMANDED)
def revoke_key(
    principal: Principal, query: dict[str, Any], if_match: frozenset[int] | None, key_id: str
) -> Any:
    """Revoke a key permanently

    A revoked key is never valid again. It stays in the list and in the audit log. Revoking it again changes
    nothing.
    """
    done = attached(Keys).commands.revoke(principal, key_id, query["reason"], origin(), if_match)
    return presented(done.key), 200, command_headers(done)


@blueprint.route("/<key_id>/history", methods=["GET"], parameters=ONE_KEY)
@bearer(KEYS_READ)
@blueprint.arguments(HistoryQuerySchema, location="query")
@blueprint.response(200, HistorySchema, description="A page of the history.")
def read_history(principal: Principal, query: dict[str, Any], key_id: str) -> Any:
    """List the events of a key, oldest first"""
    after = query["cursor"] or 0
    events, more = attached(Keys).history(principal, key_id, after, query["limit"])
    return {"events": events, "next_cursor": after + len(events) if more else None}


def no_such_key(_: NoSuchKeyError) -> Response:
    """404, also for a key of another workspace."""
    return refuse("key_not_found", "No such key in this workspace. GET /v1/keys lists its keys.")


def refused(error: RefusedError) -> Response:
    """409: the key's state doesn't allow it."""
    return refuse("key_revoked" if isinstance(error, KeyRevokedError) else "key_expired", str(error))


def stale_version(error: StaleVersionError) -> Response:
    """412: If-Match names other versions than the key's."""
    detail = (
        f"The key is at version {error.actual}, which isn't in If-Match. "
        "Get the key again, then retry with its current ETag."
    )
    return refuse("stale_version", detail, {"ETag": f'"{error.actual}"'})


def no_such_point_in_time(error: PointInTimeError) -> Response:
    """422: a point in time that isn't valid, or is yet to come."""
    rows = [{"field": "at", "message": str(error)}]
    return refuse(422, f"There is nothing to show at this point in time. {error}", errors=rows)


def not_yet_created(error: NotYetCreatedError) -> Response:
    """404: a key of the caller's own workspace, before it was created."""
    created = error.created
    detail = (
        f"The key was created at {rfc3339(created.at)}, position {created.position}. "
        "Use that or a later point in time."
    )
    return refuse("key_not_created_yet", detail)


def _past_key(principal: Principal, key_id: str, at: PointInTime) -> Any:
    """Reads from the ledger itself, which never lags, so there is nothing to wait for."""
    past = attached(Keys).past(principal, key_id, at)
    answered = {_POSITION: str(past.last.position), "ETag": _etag(past.key)}
    return presented(past.key, past.at), 200, answered


def _position_headers(reached: int, behind: bool) -> dict[str, str]:
    """The position that the views have reached, and whether it is behind the one that the caller named."""
    return {_POSITION: str(reached)} | ({_BEHIND: "true"} if behind else {})


def _etag(key: Key) -> str:
    return f'"{key.version}"'
