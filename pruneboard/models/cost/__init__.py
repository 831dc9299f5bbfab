"""Cost of a network: multiply-adds, bytes, and the weights that can still affect its output.

All counts are exact and cover the prunable layers (`pruneboard.models.prunable_layers`):

* `macs`: multiply-adds, dense and remaining;
* `storage`: bytes in several formats;
* `effective`: weights on a path from input to output; `reach`, `rules` and `tracked` follow these paths.
"""

from __future__ import annotations

from pruneboard.models.cost.effective import AliveCounts, alive_weights, count_alive
from pruneboard.models.cost.macs import MACS_DEFINITION, LayerCost, Usage, positions, train_macs, usage
from pruneboard.models.cost.storage import compressed_bytes, storage_bytes, supermask_bits
from pruneboard.models.cost.tracked import UndecidedError

__all__ = [
    "MACS_DEFINITION",
    "AliveCounts",
    "LayerCost",
    "UndecidedError",
    "Usage",
    "alive_weights",
    "compressed_bytes",
    "count_alive",
    "positions",
    "storage_bytes",
    "supermask_bits",
    "train_macs",
    "usage",
]
