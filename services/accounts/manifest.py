"""What the processes are made of that have to do with people."""

from functools import cached_property

from services.accounts.commands import Accounts
from services.accounts.login_throttle import LoginThrottle
from services.accounts.passwords import Passwords
from services.accounts.read_model.account_list import AccountList
from services.accounts.security_events import SecurityEventAggregator
from services.accounts.sign_in import SignIn
from shared.components import StoreComponents, new_id


class AccountComponents(StoreComponents):
    """The people, and what lets them in."""

    @cached_property
    def passwords(self) -> Passwords:
        """What hashes passwords, and verifies them."""
        return Passwords()

    @cached_property
    def attempts(self) -> LoginThrottle:
        """How often a password may be tried."""
        return LoginThrottle(self.store, self.settings.sign_in_limit)

    @cached_property
    def accounts(self) -> Accounts:
        """The people."""
        return Accounts(self.ledger, self.passwords, self.attempts, new_id)

    @cached_property
    def incidents(self) -> SecurityEventAggregator:
        """Failed sign-ins and denied calls."""
        return SecurityEventAggregator(self.store, self.journal)

    @cached_property
    def sign_in(self) -> SignIn:
        """What lets people in."""
        return SignIn(self.ledger, self.passwords, self.attempts, self.incidents, self.journal)

    @cached_property
    def directory(self) -> AccountList:
        """The list of people."""
        return AccountList(self.store, self.ledger)
