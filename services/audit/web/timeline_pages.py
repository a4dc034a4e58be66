"""The page of the life of one key or one actor, as the audit log tells it. It only translates."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from services.audit.queries import Audit
from services.audit.web.entry_view import PAGE, cursor_of, row
from shared.clock import rfc3339
from shared.eventstore.events import ACCOUNT_SUBJECT
from shared.identity import AUDIT_READ, Principal
from shared.text.key_detection import resembles_key
from shared.web.access import attached, signed_in

blueprint = Blueprint("audit_timeline", __name__, template_folder="templates")


@blueprint.get("/audit/timeline")
@signed_in(AUDIT_READ)
def timeline_page(principal: Principal) -> str | Response:
    """What a key or an actor did, and what was done to it: the id of either is in the address."""
    of = request.args.get("of", "").strip()
    if not of or resembles_key(of):
        return redirect(url_for("audit.entries_page"), 303)
    audit = attached(Audit)
    page = audit.page(principal, {"involving": of}, PAGE, cursor_of(request.args))
    names = audit.key_names(principal, page.entries)
    rows = [row(compared, names) for compared in page.entries]
    return render_template(
        "audit/timeline.html",
        of=of,
        who=_who(of, rows),
        days=[(day, list(of_day)) for day, of_day in groupby(rows, lambda each: rfc3339(each["at"])[:10])],
        next_cursor=page.next_cursor,
        lag=audit.lag(),
    )


def _who(of: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Whether it is a key, and what people call it."""
    key = next((each for each in rows if each["key_id"] == of), None)
    labels = (each["actor"] for each in rows if each["actor"]["id"] == of)
    actor = next(labels, {"kind": None, "label": of.removeprefix(ACCOUNT_SUBJECT)})
    is_key = key is not None or actor["kind"] == "key"
    return {"is_key": is_key, "name": (key and key["key_name"]) or actor["label"]}
