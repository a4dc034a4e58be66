"""What can be wrong with the audit log or with an export of it, each kind apart. Pure."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """What can be wrong."""

    CHANGED = "changed"  # an entry is not what its record, the chain or the ledger says
    MISSING = "missing"  # an entry is not there, though later ones are
    EXTRA = "extra"  # an entry has no event in the ledger, or is there twice
    OUT_OF_ORDER = "out of order"  # an entry stands at the position of another
    LEDGER_SHORTER = "ledger shorter"  # good entries lie behind the ledger's end: an old copy of it came back
    CUT_OFF = "cut off"  # the end is gone
    REWRITTEN = "rewritten"  # the chain fits, but is not the one that a checkpoint vouches for
    CHECKPOINT_FORGED = "checkpoint forged"  # not signed by the key, or it does not follow the one before
    CHECKPOINT_MISSING = "checkpoint missing"  # later ones are there, or it is known to have been signed
    TRAILER_FORGED = "trailer forged"  # an export's trailer is not signed by the key
    TRAILER_OF_OTHERS = "trailer of others"  # an export's trailer vouches for other lines


class Finding(NamedTuple):
    """What is wrong, and where: at a position of the log, or, of a checkpoint, at its number."""

    kind: Kind
    position: int
    detail: str


@dataclass
class Findings:
    """What was found: how often each kind, and the first of it."""

    counts: dict[Kind, int] = field(default_factory=dict)
    first: dict[Kind, Finding] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.counts

    @property
    def findings(self) -> list[Finding]:
        """The first of each kind, by position."""
        return sorted(self.first.values(), key=lambda finding: finding.position)

    def add(self, finding: Finding, count: int = 1) -> None:
        """Counts it, and keeps it if it is the first of its kind."""
        self.counts[finding.kind] = self.counts.get(finding.kind, 0) + count
        self.first.setdefault(finding.kind, finding)
