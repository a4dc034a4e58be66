"""Who may do what: principals, roles as sets of scopes, and the one policy function."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Protocol, TypeVar

from shared.events import Actor

KEYS_READ = "keyledger:keys.read"
KEYS_WRITE = "keyledger:keys.write"
KEYS_VERIFY = "keyledger:keys.verify"
PLATFORM_VERIFY = "keyledger:platform.verify"
AUDIT_READ = "keyledger:audit.read"
ADMIN = "keyledger:admin"

OWN_PREFIX = "keyledger:"
DEFAULT_WORKSPACE = "default"  # which the first start makes
WORKSPACE_RULE = "lower-case letters and digits, with single . _ - between them, 64 characters at most"
_WORKSPACE = re.compile(r"(?=.{1,64}\Z)[a-z0-9]+([._-][a-z0-9]+)*")
SCOPES = (KEYS_READ, KEYS_WRITE, KEYS_VERIFY, PLATFORM_VERIFY, AUDIT_READ, ADMIN)

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
    """Whether a workspace may be called so: its name stands in headers, addresses and file names."""
    return _WORKSPACE.fullmatch(text) is not None


@dataclass(frozen=True, kw_only=True)
class Principal:
    """An authenticated caller: a person's account, a key, or the operator at the command line."""

    kind: Literal["account", "key", "operator"]
    id: str
    label: str
    workspace: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        """Whether the scope is held. `keyledger:admin` holds all but what crosses workspaces."""
        if scope in self.scopes or (ADMIN in self.scopes and scope != PLATFORM_VERIFY):
            return True
        return PLATFORM_SCOPES in self.scopes and not scope.startswith(OWN_PREFIX)

    @property
    def actor(self) -> Actor:
        """How the events name it."""
        return Actor(kind=self.kind, id=self.id, label=self.label)


class UnauthenticatedError(Exception):
    """Nobody is known to be calling; the message says what to do."""


class ForbiddenError(Exception):
    """The caller is known, and may not."""

    def __init__(self, principal: Principal, missing: str) -> None:
        super().__init__(f"This needs the scope {missing}.")
        self.principal = principal
        self.missing = missing


class _OfWorkspace(Protocol):
    @property
    def workspace(self) -> str: ...


_Thing = TypeVar("_Thing", bound=_OfWorkspace)


class Authenticator(Protocol):
    """Tells who presents a bearer token; one service lends it to another by this protocol."""

    def __call__(self, token: str) -> Principal:
        """Raises UnauthenticatedError."""
        ...


def authorize(principal: Principal, scope: str, granting: Iterable[str] = ()) -> None:
    """The one policy: the caller holds the scope of what it does, and every scope that it hands on.

    Raises ForbiddenError.
    """
    for needed in (scope, *granting):
        if not principal.may(needed):
            raise ForbiddenError(principal, needed)


def visible(principal: Principal, thing: _Thing | None) -> _Thing | None:
    """A thing of the caller's own workspace; that of another is answered as if it were not there."""
    return thing if thing is not None and thing.workspace == principal.workspace else None
