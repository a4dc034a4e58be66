"""The process that builds the views from the ledger, from its own checkpoint; and how one step is done."""

from dataclasses import dataclass
from threading import Event as Stop

import structlog
from redis import RedisError

from services.keys.read_model.generations import LeaseTakenError, Views
from services.keys.read_model.projection import read
from services.keys.read_model.rebuild import RebuildError, replay
from shared.eventstore.ledger import BEGINNING, Checkpoint, Ledger, checkpoint_at

PAGE = 500
_WAIT_MS = 500
_GATHER_S = 0.002  # between steps, so that events which come close together are projected together
_RETRY_S = 0.2
_REBUILD_AGAIN_S = 2.0

_log = structlog.get_logger(__name__)


@dataclass
class Projector:
    """Tails the ledger into the live generation. Several may run: each page counts once.

    It remembers what it saw last, for an older copy of the store brings an older checkpoint with it.
    """

    ledger: Ledger
    views: Views
    _seen: Checkpoint = BEGINNING

    def run(self, stop: Stop) -> None:
        """Works until told to stop; waits for a store that is away."""
        away = False
        while not stop.is_set():
            try:
                if 0 < self.step(_WAIT_MS) < PAGE:
                    stop.wait(_GATHER_S)
                if away:
                    _log.info("the store is back")
                away = False
            except LeaseTakenError:
                stop.wait(_RETRY_S)  # another projector rebuilds
            except RebuildError as error:
                _log.error("the views cannot be rebuilt; the old ones still serve", reason=str(error))
                stop.wait(_REBUILD_AGAIN_S)
            except RedisError as error:
                if not away:
                    _log.warning("the store is away; waiting for it", error=str(error))
                away = True
                stop.wait(_RETRY_S)

    def catch_up(self) -> None:
        """Brings the views up to date where no projector runs; where one does, they share the work."""
        while self.step(wait_ms=1):
            pass

    def step(self, wait_ms: int) -> int:
        """Projects the next page, and gives how many events that were; waits for the first of them."""
        live = self.views.live()
        checkpoint = live.checkpoint()
        records = self.ledger.tail(checkpoint.position, PAGE, wait_ms)
        # Looked at after every read, for a ledger that lost its end may have grown past it since.
        if not all(map(self.ledger.holds, {checkpoint, self._seen})):
            _log.error("the ledger went backwards: rebuilding the views", position=self._seen.position)
            self._seen = BEGINNING
            replay(self.ledger, self.views)
            return 0
        self._seen = checkpoint
        if not records:
            return 0
        changes = live.changes(read(records))
        for key_id, reason in changes.parked.items():
            _log.error("parked a key", key_id=key_id, reason=reason)
        reached = checkpoint_at(records)
        if not live.save(checkpoint, changes, reached):
            return 0
        self._seen = reached
        return len(records)
