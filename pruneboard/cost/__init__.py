"""What a network costs: multiply-adds, bytes and memory, and which of its weights still have a part in it.

Counts are of the prunable scope (`pruneboard.models.prunable_layers`) and exact. `macs` counts the dense and the
remaining multiply-adds, `storage` the bytes, `memory` what a run took, and `effective` the weights that lie on a path
from input to output, which `reach` follows through the network.
"""

from __future__ import annotations

from pruneboard.cost.effective import Effective, effective, on_paths
from pruneboard.cost.kinds import UndecidedError
from pruneboard.cost.macs import MACS_DEFINITION, LayerCost, Usage, positions, train_macs, usage
from pruneboard.cost.memory import forget_peak_memory, peak_memory_bytes
from pruneboard.cost.storage import compressed_bytes, storage_bytes, supermask_bits

__all__ = [
    "MACS_DEFINITION",
    "Effective",
    "LayerCost",
    "UndecidedError",
    "Usage",
    "compressed_bytes",
    "effective",
    "forget_peak_memory",
    "on_paths",
    "peak_memory_bytes",
    "positions",
    "storage_bytes",
    "supermask_bits",
    "train_macs",
    "usage",
]
