"""Attaches the audit log's calls and pages to a web application."""

from flask import Flask

from services.audit import api, export_api, inquiry_api, inquiry_pages, pages
from services.audit.audit_log import AuditLog
from services.audit.database import AuditDatabaseError
from services.audit.exporting import Exports
from services.audit.inquiries import Inquiries
from services.audit.service import Audit
from shared.inquiries import KeyInquiries
from shared.ledger import Ledger
from shared.web.access import attach
from shared.web.app import JsonApi, attach_calls


def register(
    app: Flask, json_api: JsonApi, log: AuditLog, ledger: Ledger, keys: KeyInquiries, exports: Exports
) -> None:
    """Wiring and error mapping only."""
    attach(app, Audit(log, ledger))
    attach(app, Inquiries(keys, log))
    attach(app, exports)
    attach_calls(app, json_api, api.blueprint)
    attach_calls(app, json_api, export_api.blueprint)
    attach_calls(app, json_api, inquiry_api.blueprint)
    app.register_blueprint(pages.blueprint)
    app.register_blueprint(inquiry_pages.blueprint)
    app.register_error_handler(AuditDatabaseError, api.database_away)
