"""A former Keyledger with its backup, and new ones on an empty store."""

import pytest

from services.audit.components import AuditComponents
from shared.store.connections import connect
from tests.support.installations import Earlier, backed_up, close, components_in, live, seen


@pytest.fixture(scope="module")
def past(valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Earlier:
    """A former Keyledger and its backup, created once. Tests don't change it."""
    directory = tmp_path_factory.mktemp("past")
    with connect(valkey_url) as store:
        store.flushall()
    components = live(components_in(directory, valkey_url))
    taken = backed_up(components, directory / "backup.jsonl")
    found = Earlier(
        directory / "backup.jsonl", taken, seen(components), components.of(AuditComponents).key_file
    )
    close(components)
    return found
