"""Builds the views from the ledger."""

from threading import Event as Stop

import structlog

from services.keys.read_model.generations import Views
from services.keys.read_model.projection import read
from services.keys.read_model.rebuild.build import RebuildError
from services.keys.read_model.rebuild.lease import LeaseTakenError
from services.keys.read_model.rebuild.replay import replay
from shared.eventstore.ledger import Checkpoint, Ledger
from shared.eventstore.subscription import UNAVAILABLE, Batch, Pace, Subscription

PAGE = 500
_GATHER_S = 0.002
_REBUILD_AGAIN_S = 2.0

_log = structlog.get_logger(__name__)


class Projector:
    """Projects the ledger into the live generation. Several may run: each page counts once."""

    def __init__(self, ledger: Ledger, views: Views) -> None:
        self.subscription = Subscription(
            ledger,
            "projector",
            self,
            self._project,
            self._rebuild,
            pace=Pace(page=PAGE, gather_s=_GATHER_S),
            retry_on=(*UNAVAILABLE, LeaseTakenError, RebuildError),
        )
        self.step = self.subscription.step
        self._ledger = ledger
        self._views = views
        self._stop = Stop()
        self._stop.set()  # outside of `run`, nothing waits

    def run(self, stop: Stop) -> None:
        """Projects until `stop` is set."""
        self._stop = stop
        self.subscription.run(stop)

    def catch_up(self) -> None:
        """Projects all events up to the ledger's end. Stops early if a check holds the views."""
        while self.step(wait_ms=1):
            pass

    def load(self) -> Checkpoint:
        """Returns the checkpoint of the live generation."""
        return self._views.live().checkpoint()

    def _project(self, batch: Batch) -> bool:
        live = self._views.live()
        changes = live.changes(read(batch.records))
        for key_id, reason in changes.parked.items():
            _log.error("parked a key", key_id=key_id, reason=reason)
        return live.save(batch.after, changes, batch.reached)

    def _rebuild(self) -> None:
        try:
            replay(self._ledger, self._views)
        except RebuildError as error:
            _log.error("the views cannot be rebuilt; the old ones still serve", reason=str(error))
            self._stop.wait(_REBUILD_AGAIN_S)
            raise
