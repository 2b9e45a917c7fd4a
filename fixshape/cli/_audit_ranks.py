"""How do the ranks that torchrun starts write one report?"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fixshape._files import read_limited
from fixshape.audit._json import MOST_BYTES, from_json
from fixshape.audit._merge import merge
from fixshape.errors import AuditError

if TYPE_CHECKING:
    from fixshape.audit._finding import Audit

_PATIENCE = 60.0  # seconds that rank 0 waits for the others' files
_PAUSE = 0.05


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which rank of how many this process is, and where the ranks write."""

    rank: int
    world: int
    output: str | None

    @classmethod
    def of_environment(cls, output: str | None) -> Ranks:
        """As torchrun says it; one rank of one where it does not. What an earlier run has left of this rank's file goes."""
        try:
            rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        except ValueError:
            rank, world = 0, 1
        ranks = cls(rank, world, output) if 0 <= rank < world else cls(0, 1, output)
        if ranks.many and output:
            ranks.file.unlink(missing_ok=True)
        elif ranks.many and rank == 0:
            print(f"fixshape: this is rank 0 of {world}; --output FILE gives a report of all ranks", file=sys.stderr)
        return ranks

    @property
    def many(self) -> bool:
        return self.world > 1

    @property
    def file(self) -> Path:
        """Where this rank writes."""
        return self._file(self.rank)

    def merged(self, own: Audit) -> Audit:
        """The audit of all ranks; of one that does not finish in time what it has written, of one on another disk nothing."""
        until = time.monotonic() + _PATIENCE
        audits = {self.rank: own}
        missing = [rank for rank in range(self.world) if rank != self.rank]
        while missing and time.monotonic() < until:
            for rank in list(missing):
                audit = self._read(rank)
                if audit is not None:
                    audits[rank] = audit
                    if audit.status != "running":
                        missing.remove(rank)
            if missing:
                time.sleep(_PAUSE)
        for rank in missing:
            known = "had not ended" if rank in audits else "has written nothing"
            print(f"fixshape: rank {rank} {known} after {_PATIENCE:.0f} s", file=sys.stderr)
        return merge([audits[rank] for rank in sorted(audits)])

    def _read(self, rank: int) -> Audit | None:
        try:
            return from_json(read_limited(self._file(rank), MOST_BYTES))
        except (OSError, AuditError):
            return None

    def _file(self, rank: int) -> Path:
        return Path(f"{self.output}.rank{rank}.json")
