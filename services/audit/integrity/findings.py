"""What can be wrong with the audit log or an export of it. Pure."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """The kinds of findings."""

    CHANGED = "changed"  # an entry doesn't match its record, the chain or the ledger
    MISSING = "missing"  # an entry is missing, though later ones exist
    EXTRA = "extra"  # an entry has no event in the ledger, or exists twice
    OUT_OF_ORDER = "out of order"  # an entry is at the position of another
    LEDGER_SHORTER = "ledger shorter"  # the ledger ends before intact entries: an old copy was restored
    CUT_OFF = "cut off"  # the last entries are missing
    REWRITTEN = "rewritten"  # the chain is consistent, but isn't the one that was signed
    CHECKPOINT_FORGED = "checkpoint forged"  # not signed by the key, or it doesn't follow the previous one
    CHECKPOINT_MISSING = "checkpoint missing"  # later ones exist, or it is known that it was signed
    TRAILER_FORGED = "trailer forged"  # an export's trailer isn't signed by the key
    TRAILER_OF_OTHERS = "trailer of others"  # an export's trailer was signed for other lines


class Finding(NamedTuple):
    """What is wrong, and where: a position of the log, or the number of a checkpoint."""

    kind: Kind
    position: int
    detail: str


@dataclass
class Findings:
    """Counts the findings of each kind, and keeps the first one."""

    counts: dict[Kind, int] = field(default_factory=dict)
    first: dict[Kind, Finding] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.counts

    @property
    def findings(self) -> list[Finding]:
        """The first of each kind, by position."""
        return sorted(self.first.values(), key=lambda finding: finding.position)

    def add(self, finding: Finding, count: int = 1) -> None:
        """Adds a finding that was made `count` times."""
        self.counts[finding.kind] = self.counts.get(finding.kind, 0) + count
        self.first.setdefault(finding.kind, finding)
