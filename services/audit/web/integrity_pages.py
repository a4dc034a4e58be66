"""The page that tells how the audit log stands. It only translates."""

from flask import Blueprint, render_template

from services.audit.status import AuditStatus
from shared.identity import AUDIT_READ, Principal
from shared.web.access import attached, signed_in

blueprint = Blueprint("audit_integrity", __name__, template_folder="templates")


@blueprint.get("/audit/integrity")
@signed_in(AUDIT_READ)
def integrity_page(_: Principal) -> str:
    """What the last check found, what was signed, and whether the log keeps up."""
    standing = attached(AuditStatus)
    return render_template(
        "audit/integrity.html",
        alarm=standing.alarm(),
        last_check=standing.last_check(),
        vouched=standing.vouched(),
        public_key=standing.public_key(),
        progress=standing.progress(),
    )
