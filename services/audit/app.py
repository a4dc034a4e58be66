"""Attaches the audit log's calls and pages to a web application."""

from flask import Flask

from services.audit import api, pages
from services.audit.audit_log import AuditLog
from services.audit.database import AuditDatabaseError
from services.audit.service import Audit
from shared.ledger import Ledger
from shared.web.access import attach
from shared.web.app import JsonApi, attach_calls


def register(app: Flask, json_api: JsonApi, log: AuditLog, ledger: Ledger) -> None:
    """Wiring and error mapping only."""
    attach(app, Audit(log, ledger))
    attach_calls(app, json_api, api.blueprint)
    app.register_blueprint(pages.blueprint)
    app.register_error_handler(AuditDatabaseError, api.database_away)
