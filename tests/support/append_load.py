"""Writers that append to a ledger as fast as possible: `python -m tests.support.append_load URL NUMBER`.

Each continues until its standard input ends, regardless of what happens to the store, and then prints the
outcome of each append as JSON lines.
"""

import json
import select
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from redis import RedisError

from shared.eventstore.envelope import NewEvent, enveloped
from shared.eventstore.ledger import Ledger
from shared.store.connections import connect
from shared.store.idempotency import Idempotency
from tests.support.histories import ACTOR, REQUEST, created

_ROOT = Path(__file__).parents[2]
_PAUSE_S = 0.002


@dataclass
class Outcome:
    """What a writer knows about one append."""

    subject: str
    position: int | None = None  # set once it was acknowledged
    unknown: int = 0  # how often the outcome was unknown
    repeated: bool = False  # whether a retry found it done


def one_created(subject: str) -> list[NewEvent]:
    """Returns the first event of a key."""
    return enveloped(
        [created()],
        subject=subject,
        after_version=0,
        workspace="default",
        actor=ACTOR,
        request=REQUEST,
        new_id=lambda: subject,
    )


def start_writer(url: str, number: int) -> "subprocess.Popen[str]":
    """Starts a writer in a separate process."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.append_load", url, str(number)],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def stop_writer(writer: "subprocess.Popen[str]") -> list[Outcome]:
    """Stops a writer, and returns the outcomes of its appends."""
    output, _ = writer.communicate(timeout=60)
    assert writer.returncode == 0
    return [Outcome(**json.loads(line)) for line in output.splitlines()]


def main() -> None:
    """Appends until it receives SIGTERM."""
    url, number = sys.argv[1:]
    outcomes: list[Outcome] = []
    with connect(url) as store:
        ledger = Ledger(store, secret_key="a secret of 32 characters at least")
        while not select.select([sys.stdin], [], [], 0)[0]:
            subject = f"key:{number}-{len(outcomes)}"
            # If the outcome is unknown, every second append is left as it is, and the others are retried.
            outcomes.append(_append(ledger, subject, again=len(outcomes) % 2 == 0))
    for outcome in outcomes:
        print(json.dumps(asdict(outcome)))


def _append(ledger: Ledger, subject: str, *, again: bool) -> Outcome:
    outcome = Outcome(subject)
    events, idempotency = one_created(subject), Idempotency(subject, subject)
    while True:
        try:
            appended = ledger.append(subject, events, 0, idempotency)
        except RedisError:
            outcome.unknown += 1
            if not again:
                return outcome
            time.sleep(_PAUSE_S)
        else:
            outcome.position, outcome.repeated = appended.position, appended.repeated
            return outcome


if __name__ == "__main__":
    main()
