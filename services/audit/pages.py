"""The page of the audit log. It only translates: who, what, show."""

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, redirect, render_template, request, url_for
from marshmallow import ValidationError
from werkzeug.wrappers import Response

from services.audit.entries import Entry, description_of, told
from services.audit.schemas import PageQuerySchema, actor_of
from services.audit.service import Audit
from shared.events import EVENT_TYPES
from shared.identity import AUDIT_READ, Principal
from shared.tokens import resembles_key
from shared.web.access import attached, signed_in

_FILTERS = ("key_id", "actor", "type", "since", "until", "q")
_UNKNOWN = "Unknown"
_NO_KEYS = (
    "This looks like an API key, which the log never holds. Search by its id, which Keys' Details tells."
)

blueprint = Blueprint("audit", __name__, template_folder="templates")


@blueprint.get("/audit")
@signed_in(AUDIT_READ)
def entries_page(principal: Principal) -> str | tuple[str, int]:
    """The newest entries that match the filter in the address."""
    typed = {name: request.args.get(name, "") for name in _FILTERS}
    try:
        query = PageQuerySchema().load(typed | _cursor(request.args))
    except ValidationError as error:
        return _page(typed, [], errors=error.messages_dict), 422
    audit = attached(Audit)
    page = audit.page(principal, **query)
    names = audit.key_names(principal, page.entries)
    return _page(typed, [row(entry, names) for entry in page.entries], next_cursor=page.next_cursor)


@blueprint.post("/audit/search")
@signed_in(AUDIT_READ)
def search(_: Principal) -> Response | tuple[str, int]:
    """Leads to the entries that were asked for. What looks like a key comes into no address."""
    typed = {name: request.form.get(name, "") for name in _FILTERS}
    secret = {name: [_NO_KEYS] for name, value in typed.items() if resembles_key(value)}
    if secret:
        return _page(typed | dict.fromkeys(secret, ""), [], errors=secret), 422
    chosen: dict[str, Any] = {name: value for name, value in typed.items() if value}
    return redirect(url_for("audit.entries_page", **chosen), 303)


def _cursor(arguments: Mapping[str, str]) -> dict[str, str]:
    """Where the page begins; one that was mangled begins with the newest."""
    cursor = arguments.get("cursor", "")
    return {"cursor": cursor} if not PageQuerySchema(only=["cursor"]).validate({"cursor": cursor}) else {}


def _page(typed: Mapping[str, str], entries: list[dict[str, Any]], **more: Any) -> str:
    return render_template(
        "audit/entries.html",
        filters=typed,
        entries=entries,
        event_types=EVENT_TYPES,
        lag=attached(Audit).lag(),
        **{"errors": {}, "next_cursor": None} | more,
    )


def row(entry: Entry, key_names: Mapping[str, str]) -> dict[str, Any]:
    """An entry as the page shows it."""
    description, event = description_of(entry), told(entry)
    return {
        "position": entry.position,
        "at": entry.at,
        "type": event.type or _UNKNOWN,
        "title": description.title,
        "actor": {name: value or _UNKNOWN for name, value in actor_of(event).items()},
        "key_id": event.key_id,
        "key_name": key_names.get(event.key_id or ""),
        "subject": event.subject or _UNKNOWN,
        "ip": event.ip,
        "request_id": event.request_id,
        "changes": [change._asdict() for change in description.changes],
        "entry_hash": entry.entry_hash.hex(),
    }
