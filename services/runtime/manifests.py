"""The services that Keyledger consists of."""

from collections.abc import Sequence

from services.accounts.manifest import MANIFEST as ACCOUNTS
from services.audit.manifest import MANIFEST as AUDIT
from services.keys.manifest import MANIFEST as KEYS
from shared.service.manifest import Manifest

MANIFESTS: Sequence[Manifest] = (KEYS, AUDIT, ACCOUNTS)
