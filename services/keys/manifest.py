"""What the key service adds to Keyledger."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shared.identity import KEYS_READ
from shared.service.manifest import Background, Manifest, NavigationItem, Program

if TYPE_CHECKING:
    from shared.service.checks import Check
    from shared.service.components import Container
    from shared.service.metrics import Metrics
    from shared.web.registration import Web


def _checks() -> "Sequence[Check]":
    from services.keys.monitoring import CHECKS

    return CHECKS


def _metrics() -> "Sequence[Metrics]":
    from services.keys.monitoring import METRICS

    return METRICS


def _background(components: "Container") -> Sequence[Background]:
    from services.keys.components import KeyComponents

    own = components.of(KeyComponents)
    return Background(own.invalidator.run), Background(own.usage.run, own.usage.flush)


def _web(web: "Web") -> None:
    from services.keys.components import KeyComponents
    from services.keys.web.register import attach_service

    attach_service(web, web.components.of(KeyComponents))


MANIFEST = Manifest(
    name="keys",
    commands={"key": "services.cli.keys", "projector": "services.cli.views", "replay": "services.cli.views"},
    programs=(Program("projector", ["projector"]),),
    checks=_checks,
    metrics=_metrics,
    background=_background,
    web=_web,
    navigation=(NavigationItem("keys.list_keys", "key", "API Keys", KEYS_READ),),
)
