"""The objects that the account service is built from."""

from dataclasses import dataclass
from functools import cached_property

from services.accounts.commands import Accounts
from services.accounts.login_throttle import LoginThrottle
from services.accounts.passwords import Passwords
from services.accounts.read_model.account_list import AccountList
from services.accounts.security_events import SecurityEventAggregator
from services.accounts.sign_in import SignIn
from shared.service.components import SharedComponents, new_id


@dataclass(frozen=True)
class AccountComponents:
    """Accounts, sign-in, and the security events of both."""

    shared: SharedComponents

    @cached_property
    def passwords(self) -> Passwords:
        return Passwords()

    @cached_property
    def throttle(self) -> LoginThrottle:
        return LoginThrottle(self.shared.store, self.shared.settings.sign_in_limit)

    @cached_property
    def accounts(self) -> Accounts:
        ledger, log = self.shared.ledger, self.shared.command_log
        return Accounts(ledger, self.passwords, self.throttle, new_id, log=log)

    @cached_property
    def security_events(self) -> SecurityEventAggregator:
        return SecurityEventAggregator(self.shared.store, self.shared.journal)

    @cached_property
    def sign_in(self) -> SignIn:
        return SignIn(
            self.shared.ledger,
            self.passwords,
            self.throttle,
            self.security_events,
            self.shared.journal,
            log=self.shared.command_log,
        )

    @cached_property
    def account_list(self) -> AccountList:
        return AccountList(self.shared.store, self.shared.ledger)
