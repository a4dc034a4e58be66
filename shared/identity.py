"""Who may do what: principals, roles as sets of scopes, and the one policy function."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, Protocol, TypeVar

from shared.eventstore.envelope import Actor

KEYS_READ = "keyledger:keys.read"
KEYS_WRITE = "keyledger:keys.write"
KEYS_VERIFY = "keyledger:keys.verify"
PLATFORM_VERIFY = "keyledger:platform.verify"
AUDIT_READ = "keyledger:audit.read"
ADMIN = "keyledger:admin"

OWN_PREFIX = "keyledger:"
DEFAULT_WORKSPACE = "default"  # which the first start makes
WORKSPACE_RULE = "lower-case letters and digits, with single . _ - between them, up to 64 characters"
WORKSPACE_PATTERN = r"^(?=.{1,64}$)[a-z0-9]+([._-][a-z0-9]+)*$"
_WORKSPACE = re.compile(WORKSPACE_PATTERN)
SCOPES: Mapping[str, str] = MappingProxyType(  # with what it allows
    {
        KEYS_READ: "List keys, and read them with their history and usage.",
        KEYS_WRITE: "Create, change, rotate and revoke keys.",
        KEYS_VERIFY: "Verify keys of the caller's workspace.",
        PLATFORM_VERIFY: "Verify keys of all workspaces.",
        AUDIT_READ: "Read the audit log.",
        ADMIN: "Everything in the caller's workspace.",
    }
)

# All that a secret in its grace period may still be used for.
_READING = frozenset({KEYS_READ, KEYS_VERIFY, PLATFORM_VERIFY, AUDIT_READ})

# Stands for every scope that is not Keyledger's own: those that the platform gives a meaning to.
PLATFORM_SCOPES = "*"

ROLES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "owner": frozenset({ADMIN}),
        "developer": frozenset({KEYS_READ, KEYS_WRITE, KEYS_VERIFY, AUDIT_READ, PLATFORM_SCOPES}),
        "auditor": frozenset({KEYS_READ, AUDIT_READ}),
    }
)


def is_workspace_name(text: str) -> bool:
    """Whether a text is a valid workspace name. Names are used in headers, URLs and file names."""
    return _WORKSPACE.fullmatch(text) is not None


@dataclass(frozen=True, kw_only=True)
class Principal:
    """An authenticated caller: a person's account, a key, or the operator at the command line.

    `rotated_secret`: a key presented the secret from before its last rotation, still in its grace period.
    """

    kind: Literal["account", "key", "operator"]
    id: str
    label: str
    workspace: str
    scopes: frozenset[str]
    rotated_secret: bool = False
    session_version: int = field(default=0, compare=False)  # of the account, that a person's session began at

    def may(self, scope: str) -> bool:
        """Whether the scope is held. `keyledger:admin` holds all but what crosses workspaces."""
        if scope in self.scopes or (ADMIN in self.scopes and scope != PLATFORM_VERIFY):
            return True
        return PLATFORM_SCOPES in self.scopes and not scope.startswith(OWN_PREFIX)

    @property
    def actor(self) -> Actor:
        """The principal as events record it."""
        return Actor(kind=self.kind, id=self.id, label=self.label)


class UnauthenticatedError(Exception):
    """The caller isn't authenticated. The message says what to do."""


class InvalidKeyError(UnauthenticatedError):
    """The caller presented an API key that isn't valid."""


class ForbiddenError(Exception):
    """The caller is authenticated, but isn't allowed to do this. `scope` is the missing one."""

    def __init__(self, principal: Principal, scope: str, reason: str = "") -> None:
        super().__init__(reason or f"This needs the scope {scope}. Ask an owner of this workspace for it.")
        self.principal = principal
        self.scope = scope


class NotGrantableError(ForbiddenError):
    """The key would hold a scope that the caller doesn't."""

    def __init__(self, principal: Principal, scope: str) -> None:
        reason = (
            f"This needs every scope that the key would then hold, and you don't hold {scope}. "
            "Ask an owner of this workspace to do it."
        )
        super().__init__(principal, scope, reason)


class RotatedSecretError(ForbiddenError):
    """The caller presented a secret that was rotated: until its grace period ends, it reads and verifies."""

    def __init__(self, principal: Principal, scope: str) -> None:
        reason = (
            "This secret was rotated. Until its grace period ends it can only read and verify. "
            "Use the key's current secret."
        )
        super().__init__(principal, scope, reason)


class _OfWorkspace(Protocol):
    @property
    def workspace(self) -> str: ...


_Thing = TypeVar("_Thing", bound=_OfWorkspace)


class Authenticator(Protocol):
    """Authenticates bearer tokens. Services share an authenticator with this protocol."""

    def __call__(self, token: str) -> Principal:
        """Raises UnauthenticatedError."""
        ...


def authorize(
    principal: Principal, scope: str, granting: Iterable[str] = (), *, records: bool = False
) -> None:
    """The one policy: the caller holds the scope of the action, and every scope that it grants.

    `records`: a read that appends an event, as an export does. A rotated secret in its grace period only
    reads, and appends nothing. Raises ForbiddenError.
    """
    if not principal.may(scope):
        raise ForbiddenError(principal, scope)
    if principal.rotated_secret and (records or scope not in _READING):
        raise RotatedSecretError(principal, scope)
    for granted in granting:
        if not principal.may(granted):
            raise NotGrantableError(principal, granted)


def visible(principal: Principal, thing: _Thing | None) -> _Thing | None:
    """A thing of the caller's own workspace; that of another is answered as if it were not there."""
    return thing if thing is not None and thing.workspace == principal.workspace else None
