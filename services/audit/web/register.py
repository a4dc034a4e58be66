"""Adds the audit log's endpoints and pages to a web application."""

from flask import Flask

from services.audit.export.service import Exports
from services.audit.forensics import Forensics
from services.audit.log.database import AuditDatabaseError
from services.audit.log.search import TooManyKeysError
from services.audit.queries import Audit
from services.audit.status import AuditStatus
from services.audit.web import api, export_api, forensics_api, forensics_pages, pages
from shared.forensics import KeyForensics
from shared.web.access import attach
from shared.web.app import JsonApi, attach_api


def register(
    app: Flask, json_api: JsonApi, audit_status: AuditStatus, keys: KeyForensics, exports: Exports
) -> None:
    attach(app, Audit(audit_status.comparison))
    attach(app, audit_status)
    attach(app, Forensics(keys, audit_status.comparison))
    attach(app, exports)
    for calls in (api, export_api, forensics_api):
        attach_api(app, json_api, calls.blueprint)
    for shown in (pages, forensics_pages):
        app.register_blueprint(shown.blueprint)
    app.register_error_handler(TooManyKeysError, api.too_many_keys)
    app.register_error_handler(AuditDatabaseError, api.database_unavailable)
