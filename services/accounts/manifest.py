"""What the account service adds to Keyledger."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shared.identity import ADMIN
from shared.service.manifest import Background, Manifest, NavigationItem

if TYPE_CHECKING:
    from shared.service.components import Container
    from shared.web.registration import Web


def _background(components: "Container") -> Sequence[Background]:
    from services.accounts.components import AccountComponents

    events = components.of(AccountComponents).security_events
    return (Background(events.run, events.record_due),)


def _web(web: "Web") -> None:
    from services.accounts.components import AccountComponents
    from services.accounts.web.register import register

    own = web.components.of(AccountComponents)
    register(web.app, own.accounts, own.sign_in, own.account_list)


MANIFEST = Manifest(
    name="accounts",
    commands={"account": "services.cli.accounts"},
    background=_background,
    web=_web,
    navigation=(NavigationItem("account_pages.list_accounts", "people", "Accounts", ADMIN),),
)
