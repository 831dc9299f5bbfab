"""Results folders joined into one: what `pruneboard merge` copies, and what it refuses. Imports no torch.

found       the records that there are: in the sources, on their shelves, in the destination
steps       what happens to one run
conflicts   what stands against it
planning    all of it, before anything is written
copying     the writing, folder by folder

`plan` finds all conflicts at once and writes nothing. `carry_out` writes `run.json` last, so that a merge which is
killed leaves no record without its files, and a new plan has the rest. Where a run goes follows from its record through
`store.run_folder`; docs/merge.md states the rules.
"""

from __future__ import annotations

from pruneboard.records.merging.copying import carry_out
from pruneboard.records.merging.planning import Plan, plan

__all__ = ["Plan", "carry_out", "plan"]
