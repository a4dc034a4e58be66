"""Attaches the audit log's calls and pages to a web application."""

from flask import Flask

from services.audit import (
    api,
    export_api,
    inquiry_api,
    inquiry_pages,
    integrity_pages,
    pages,
    timeline_pages,
)
from services.audit.database import AuditDatabaseError
from services.audit.exporting import Exports
from services.audit.inquiries import Inquiries
from services.audit.search import TooManyKeysError
from services.audit.service import Audit
from services.audit.standing import Standing
from shared.inquiries import KeyInquiries
from shared.web.access import attach
from shared.web.app import JsonApi, attach_calls


def register(app: Flask, json_api: JsonApi, standing: Standing, keys: KeyInquiries, exports: Exports) -> None:
    """Wiring and error mapping only."""
    attach(app, Audit(standing.comparison))
    attach(app, standing)
    attach(app, Inquiries(keys, standing.comparison))
    attach(app, exports)
    for calls in (api, export_api, inquiry_api):
        attach_calls(app, json_api, calls.blueprint)
    for shown in (pages, timeline_pages, integrity_pages, inquiry_pages):
        app.register_blueprint(shown.blueprint)
    app.register_error_handler(TooManyKeysError, api.too_many_keys)
    app.register_error_handler(AuditDatabaseError, api.database_away)
