"""Keys on a store in memory."""

import random
from itertools import count

import pytest
from redis import Redis

from services.keys.commands import KeyCommands
from shared.eventstore.ledger import Ledger
from tests.support.principals import now


@pytest.fixture
def ledger(fake_store: Redis) -> Ledger:
    return Ledger(fake_store, secret_key="a secret of 32 characters at least")


@pytest.fixture
def commands(ledger: Ledger) -> KeyCommands:
    ids = (f"event-{number}" for number in count(1))
    return KeyCommands(ledger, "kl", random.Random(7).randrange, ids.__next__, now)
