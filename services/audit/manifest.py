"""What the audit service adds to Keyledger."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shared.identity import AUDIT_READ
from shared.service.manifest import Manifest, NavigationItem, Program

if TYPE_CHECKING:
    from shared.service.checks import Check
    from shared.service.metrics import Metrics
    from shared.web.registration import Web


def _checks() -> "Sequence[Check]":
    from services.audit.monitoring.checks import CHECKS

    return CHECKS


def _metrics() -> "Sequence[Metrics]":
    from services.audit.monitoring.metrics import METRICS

    return METRICS


def _web(web: "Web") -> None:
    from services.audit.components import AuditComponents
    from services.audit.web.register import register

    own = web.components.of(AuditComponents)
    register(web.app, web.api, own.status, web.key_forensics, own.exports)


MANIFEST = Manifest(
    name="audit",
    commands={"audit": "services.cli.audit"},
    programs=(Program("relay", ["audit", "relay"]), Program("worker", ["audit", "worker"])),
    checks=_checks,
    metrics=_metrics,
    web=_web,
    navigation=(NavigationItem("audit.entries_page", "ledger", "Audit log", AUDIT_READ),),
)
