"""What a network costs: multiply-adds and bytes, and which of its weights still have a part in it.

Counts are of the prunable scope (`pruneboard.models.prunable_layers`) and exact. `macs` counts the dense and the
remaining multiply-adds, `storage` the bytes, and `effective` the weights that lie on a path
from input to output, which `reach` follows through the network.
"""

from __future__ import annotations

from pruneboard.models.cost.effective import Effective, effective, on_paths
from pruneboard.models.cost.kinds import UndecidedError
from pruneboard.models.cost.macs import MACS_DEFINITION, LayerCost, Usage, positions, train_macs, usage
from pruneboard.models.cost.storage import compressed_bytes, storage_bytes, supermask_bits

__all__ = [
    "MACS_DEFINITION",
    "Effective",
    "LayerCost",
    "UndecidedError",
    "Usage",
    "compressed_bytes",
    "effective",
    "on_paths",
    "positions",
    "storage_bytes",
    "supermask_bits",
    "train_macs",
    "usage",
]
