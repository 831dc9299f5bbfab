"""Merging several results folders into one, for `pruneboard merge`. Imports no torch.

discovery   finding the records in the sources, in their archive folders, and in the destination
steps       what a merge does with one run
conflicts   reasons to refuse a merge
planning    the whole merge, planned before anything is written
copying     executing the plan, folder by folder

`plan_merge` writes nothing and finds all conflicts at once. `execute` writes `run.json` last in every folder: if a
merge is killed, no record is without its files, and a new plan contains what is missing. The destination of a run
follows from its record (`store.folder_of`). docs/merge.md states the rules.
"""

from __future__ import annotations

from pruneboard.records.merging.copying import execute
from pruneboard.records.merging.planning import MergePlan, plan_merge

__all__ = ["MergePlan", "execute", "plan_merge"]
