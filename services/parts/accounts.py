"""What the processes are made of that have to do with people."""

from functools import cached_property

from services.accounts.attempts import Attempts
from services.accounts.commands import Accounts
from services.accounts.credentials import Passwords
from services.accounts.directory import Directory
from services.accounts.incidents import Incidents
from services.accounts.sign_in import SignIn
from services.parts import StoreParts, new_id


class AccountParts(StoreParts):
    """The people, and what lets them in."""

    @cached_property
    def passwords(self) -> Passwords:
        """What hashes passwords, and verifies them."""
        return Passwords()

    @cached_property
    def attempts(self) -> Attempts:
        """How often a password may be tried."""
        return Attempts(self.store, self.settings.sign_in_limit)

    @cached_property
    def accounts(self) -> Accounts:
        """The people."""
        return Accounts(self.ledger, self.passwords, self.attempts, new_id)

    @cached_property
    def incidents(self) -> Incidents:
        """Failed sign-ins and denied calls."""
        return Incidents(self.store, self.journal)

    @cached_property
    def sign_in(self) -> SignIn:
        """What lets people in."""
        return SignIn(self.ledger, self.passwords, self.attempts, self.incidents, self.journal)

    @cached_property
    def directory(self) -> Directory:
        """The list of people."""
        return Directory(self.store, self.ledger)
