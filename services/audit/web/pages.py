"""Pages of the audit log: entries, activity, export, the timeline of a key or actor, and integrity."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from flask import Blueprint, redirect, render_template, request, url_for
from marshmallow import ValidationError
from werkzeug.wrappers import Response

from services.audit.log.filters import FILTERS, Filters
from services.audit.log.histogram import Activity, Bar
from services.audit.log.search import TooManyKeysError
from services.audit.queries import Audit
from services.audit.status import AuditStatus
from services.audit.web.entry_view import PAGE, cursor_of, row
from services.audit.web.export_response import exported, map_errors
from services.audit.web.schemas import TypedFiltersSchema
from shared.clock import rfc3339
from shared.eventstore.payload import ACCOUNT_SUBJECT
from shared.identity import AUDIT_READ, Principal
from shared.text.key_detection import resembles_key
from shared.web.access import attached, signed_in

_NO_KEYS = "This looks like an API key. The log never contains keys: look it up, or search by its ID."

blueprint = Blueprint("audit", __name__, template_folder="templates")
map_errors(blueprint)


@blueprint.get("/audit")
@signed_in(AUDIT_READ)
def entries_page(principal: Principal) -> str | tuple[str, int]:
    """The newest entries that match the filters in the URL."""
    typed = _typed(request.args)
    audit = attached(Audit)
    try:
        criteria = TypedFiltersSchema().load(typed)
        page = audit.page(principal, criteria, PAGE, cursor_of(request.args))
    except ValidationError as error:
        return _page(typed, errors=error.messages_dict), 422
    except TooManyKeysError as error:
        return _page(typed, errors={"name": [str(error)]}), 422
    names = audit.key_names(principal, page.entries)
    return _page(typed, [row(entry, names) for entry in page.entries], next_cursor=page.next_cursor)


@blueprint.post("/audit/search")
@signed_in(AUDIT_READ)
def search(_: Principal) -> Response | tuple[str, int]:
    """Redirects to the entries, unless a filter looks like a key, which mustn't get into a URL."""
    typed = _typed(request.form)
    return _secret(typed) or redirect(url_for("audit.entries_page", **_chosen(typed)), 303)


@blueprint.get("/audit/activity")
@signed_in(AUDIT_READ)
def activity_page(principal: Principal) -> str | Response:
    """A chart of when the matching entries happened, which the page of entries embeds."""
    typed = _typed(request.args)
    try:
        activity = attached(Audit).activity(principal, TypedFiltersSchema().load(typed))
    except (ValidationError, TooManyKeysError):
        # The page of entries shows the errors.
        return redirect(url_for("audit.entries_page", **_chosen(typed)), 303)
    chosen = _chosen(typed)
    return render_template(
        "audit/activity.html",
        filters=typed,
        chosen=chosen,
        activity=activity,
        bars=_bars(activity, chosen) if activity else [],
    )


@blueprint.post("/audit/export")
@signed_in(AUDIT_READ)
def export(principal: Principal) -> Response | tuple[str, int]:
    """The matching entries as a file. A filter that looks like a key must not get into an event."""
    typed = _typed(request.form)
    form = request.form.get("format", "")
    try:
        filters = Filters(workspace=principal.workspace, **TypedFiltersSchema().load(typed))
        return _secret(typed) or exported(principal, filters, "csv" if form == "csv" else "jsonl")
    except ValidationError as error:
        return _page(typed, errors=error.messages_dict), 422
    except TooManyKeysError as error:
        return _page(typed, errors={"name": [str(error)]}), 422


@blueprint.get("/audit/timeline")
@signed_in(AUDIT_READ)
def timeline_page(principal: Principal) -> str | Response:
    """What the key or actor in the URL did, and what was done to it."""
    of = request.args.get("of", "").strip()
    if not of or resembles_key(of):
        return redirect(url_for("audit.entries_page"), 303)
    audit = attached(Audit)
    page = audit.page(principal, {"involving": of}, PAGE, cursor_of(request.args))
    names = audit.key_names(principal, page.entries)
    rows = [row(entry, names) for entry in page.entries]
    return render_template(
        "audit/timeline.html",
        of=of,
        who=_who(of, rows),
        days=[(day, list(of_day)) for day, of_day in groupby(rows, lambda each: rfc3339(each["at"])[:10])],
        next_cursor=page.next_cursor,
        lag=audit.lag(),
    )


@blueprint.get("/audit/integrity")
@signed_in(AUDIT_READ)
def integrity_page(_: Principal) -> str:
    """The last check, the last checkpoint, and the lag of the log."""
    audit_status = attached(AuditStatus)
    return render_template(
        "audit/integrity.html",
        alarm=audit_status.alarm(),
        last_check=audit_status.last_check(),
        last_checkpoint=audit_status.last_checkpoint(),
        public_key=audit_status.public_key(),
        progress=audit_status.progress(),
    )


def _typed(given: Mapping[str, str]) -> dict[str, str]:
    return {name: given.get(name, "").strip() for name in (each.name for each in FILTERS)}


def _chosen(typed: Mapping[str, str]) -> dict[str, Any]:
    return {name: value for name, value in typed.items() if value}


def _secret(typed: Mapping[str, str]) -> tuple[str, int] | None:
    """The response if a filter looks like a key, without the key."""
    errors = {name: [_NO_KEYS] for name, value in typed.items() if resembles_key(value)}
    return (_page(dict(typed) | dict.fromkeys(errors, ""), errors=errors), 422) if errors else None


def _page(typed: Mapping[str, str], entries: Sequence[Mapping[str, Any]] = (), **more: Any) -> str:
    audit_status = attached(AuditStatus)
    return render_template(
        "audit/entries.html",
        filters=typed,
        chosen=_chosen(typed),
        entries=entries,
        filter_fields=[each for each in FILTERS if each.name != "q"],
        lag=attached(Audit).lag(),
        alarm=audit_status.alarm(),
        last_check=audit_status.last_check(),
        **{"errors": {}, "next_cursor": None} | more,
    )


def _bars(activity: Activity, chosen: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The bars of the chart, each with the URL of its entries."""
    return [
        {
            **bar._asdict(),
            "height": 100 * bar.entries / max(activity.highest, 1),
            "href": url_for("audit.entries_page", **{**chosen, **_within(bar)}),
        }
        for bar in activity.bars
    ]


def _within(bar: Bar) -> dict[str, str]:
    """A bar's time range as filters."""
    return {"since": _as_typed(bar.since), "until": _as_typed(bar.until)}


def _as_typed(at: int) -> str:
    return rfc3339(at).removesuffix("Z").removesuffix(".000").removesuffix(":00")


def _who(of: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Whether it is a key, and its name."""
    key = next((each for each in rows if each["key_id"] == of), None)
    labels = (each["actor"] for each in rows if each["actor"]["id"] == of)
    actor = next(labels, {"kind": None, "label": of.removeprefix(ACCOUNT_SUBJECT)})
    is_key = key is not None or actor["kind"] == "key"
    return {"is_key": is_key, "name": (key and key["key_name"]) or actor["label"]}
