"""The events, one class each: the only contract between the services.

A class states its type, its schema, its title, what it is about, and what its fields are. Everything else
that knows event types is made from the classes of this module.
"""

import msgspec

from shared.eventstore.payload import (
    ACCESS_SUBJECT,
    ACCOUNT_SUBJECT,
    ADDRESS_SUBJECT,
    AUDIT_SUBJECT,
    KEY_SUBJECT,
    SIGN_IN_SUBJECT,
    Change,
    Computed,
    Description,
    Digest,
    Hidden,
    KeyName,
    Payload,
    Reason,
    Repeated,
    Time,
    differences,
)


class KeyDetails(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What callers choose of a key: fields that its events, commands and state share."""

    name: KeyName
    description: str
    scopes: tuple[str, ...]
    expires_at: Time | None


class KeyCreated(Payload, KeyDetails, frozen=True, kw_only=True):
    """A key was created. `digest` is the SHA-256 of the whole token in hex; the token itself isn't stored."""

    TYPE = "KeyCreated"
    SCHEMA = 1
    TITLE = "Key created"
    SUBJECTS = (KEY_SUBJECT,)

    prefix: Hidden[Computed[str]]
    hint: Hidden[Computed[str]]
    digest: Digest


class KeyToggled(Payload, frozen=True, kw_only=True):
    """A key was enabled or disabled."""

    TYPE = "KeyToggled"
    SCHEMA = 2
    TITLE = "Key disabled"
    SUBJECTS = (KEY_SUBJECT,)

    enabled: Hidden[bool]
    reason: Reason

    def describe(self) -> Description:
        """With the switch as it was and is."""
        title = "Key enabled" if self.enabled else self.TITLE
        return Description(title, (Change("enabled", not self.enabled, self.enabled), *self.fields_set()))


class KeyToggled1(Payload, frozen=True, kw_only=True):
    """The same as it was first stored, when no reason was null."""

    TYPE = KeyToggled.TYPE
    SCHEMA = 1
    TITLE = KeyToggled.TITLE
    SUBJECTS = KeyToggled.SUBJECTS

    enabled: bool
    reason: Reason | None

    def upcast(self) -> KeyToggled:
        """The present form."""
        return KeyToggled(enabled=self.enabled, reason=self.reason or "")


class KeyDetailsChanged(Payload, frozen=True, kw_only=True):
    """A key's details changed. Both versions are stored, so that the event alone says what changed."""

    TYPE = "KeyDetailsChanged"
    SCHEMA = 1
    TITLE = "Key changed"
    SUBJECTS = (KEY_SUBJECT,)

    before: Hidden[Repeated[KeyDetails]]
    after: Hidden[KeyDetails]
    reason: Reason

    def describe(self) -> Description:
        """With the details that changed."""
        return Description(self.TITLE, (*differences(self.before, self.after), *self.fields_set()))


class KeyRotated(Payload, frozen=True, kw_only=True):
    """A key got a new secret under its id. The old secret is valid until `previous_expires_at`."""

    TYPE = "KeyRotated"
    SCHEMA = 1
    TITLE = "Key rotated"
    SUBJECTS = (KEY_SUBJECT,)

    prefix: Hidden[Computed[str]]
    hint: Computed[str]
    digest: Digest
    previous_expires_at: Hidden[Time]

    def describe(self) -> Description:
        """With the end of the old secret."""
        end = Change("old_secret_expires_at", None, self.previous_expires_at, is_time=True)
        return Description(self.TITLE, (*self.fields_set(), end))


class KeyRevoked(Payload, frozen=True, kw_only=True):
    """A key was permanently revoked."""

    TYPE = "KeyRevoked"
    SCHEMA = 1
    TITLE = "Key revoked"
    SUBJECTS = (KEY_SUBJECT,)

    reason: Reason


class AccountAdded(Payload, frozen=True, kw_only=True):
    """An account was added. Its subject is the e-mail address; the password's hash isn't in the ledger."""

    TYPE = "AccountAdded"
    SCHEMA = 1
    TITLE = "Account added"
    SUBJECTS = (ACCOUNT_SUBJECT,)

    role: str


class AccountRoleChanged(Payload, frozen=True, kw_only=True):
    """An account got another role."""

    TYPE = "AccountRoleChanged"
    SCHEMA = 1
    TITLE = "Role changed"
    SUBJECTS = (ACCOUNT_SUBJECT,)

    before: str
    after: str

    def describe(self) -> Description:
        """With both roles."""
        return Description(self.TITLE, (Change("role", self.before, self.after),))


class AccountDisabled(Payload, frozen=True, kw_only=True):
    """An account can't sign in any more, and all its sessions ended."""

    TYPE = "AccountDisabled"
    SCHEMA = 1
    TITLE = "Account disabled"
    SUBJECTS = (ACCOUNT_SUBJECT,)

    reason: Reason


class AccountEnabled(Payload, frozen=True, kw_only=True):
    """An account can sign in again."""

    TYPE = "AccountEnabled"
    SCHEMA = 1
    TITLE = "Account enabled"
    SUBJECTS = (ACCOUNT_SUBJECT,)


class PasswordChanged(Payload, frozen=True, kw_only=True):
    """An account has another password, and its sessions from before ended.

    If the actor isn't the account itself, the password is one for the next sign-in.
    """

    TYPE = "PasswordChanged"
    SCHEMA = 1
    TITLE = "Password changed"
    SUBJECTS = (ACCOUNT_SUBJECT,)


class SignedOutEverywhere(Payload, frozen=True, kw_only=True):
    """All sessions of an account ended."""

    TYPE = "SignedOutEverywhere"
    SCHEMA = 1
    TITLE = "Signed out everywhere"
    SUBJECTS = (ACCOUNT_SUBJECT,)


class SignedIn(Payload, frozen=True, kw_only=True):
    """An account signed in."""

    TYPE = "SignedIn"
    SCHEMA = 1
    TITLE = "Signed in"
    SUBJECTS = (SIGN_IN_SUBJECT,)


class SignInFailed(Payload, frozen=True, kw_only=True):
    """Sign-ins failed. `attempts` counts them since the last event of this type about the same subject.

    The subject is the account, or the IP address if no account has the e-mail address that was typed.
    """

    TYPE = "SignInFailed"
    SCHEMA = 1
    TITLE = "Sign-in failed"
    SUBJECTS = (SIGN_IN_SUBJECT, ADDRESS_SUBJECT)

    attempts: int


class AccessDenied(Payload, frozen=True, kw_only=True):
    """A known caller lacked a scope. `attempts` counts its calls since the last event of this type."""

    TYPE = "AccessDenied"
    SCHEMA = 1
    TITLE = "Access denied"
    SUBJECTS = (ACCESS_SUBJECT,)

    scope: Repeated[str]
    attempts: int


class AuditExported(Payload, frozen=True, kw_only=True):
    """Entries of the audit log were exported. `filters` are those that were asked for, by name."""

    TYPE = "AuditExported"
    SCHEMA = 1
    TITLE = "Audit log exported"
    SUBJECTS = (AUDIT_SUBJECT,)

    format: str
    filters: Hidden[Repeated[dict[str, str]]]
    position: Hidden[int]  # the last one in the log

    def describe(self) -> Description:
        """With each filter."""
        filters = (Change(name, None, value) for name, value in self.filters.items())
        return Description(self.TITLE, (*self.fields_set(), *filters))


class AuditFinding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fault of the audit log: its kind, how many there are, where the first one is, and what it is."""

    kind: str
    count: int
    position: int
    detail: str


class AuditChecked(Payload, frozen=True, kw_only=True):
    """The whole audit log was checked. It is intact if there are no findings."""

    TYPE = "AuditChecked"
    SCHEMA = 1
    TITLE = "Audit log verified"
    SUBJECTS = (AUDIT_SUBJECT,)

    entries: int
    checkpoints: int
    position: Hidden[int]  # the last one in the log
    findings: Hidden[Repeated[tuple[AuditFinding, ...]]]

    def describe(self) -> Description:
        """With the findings, if there are any."""
        if not self.findings:
            return super().describe()
        faults = tuple(f"{found.kind} ({found.count}) at {found.position}" for found in self.findings)
        return Description(
            "Audit log verification failed", (*self.fields_set(), Change("findings", None, faults))
        )
