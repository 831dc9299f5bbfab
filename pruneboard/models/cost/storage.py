"""Storage size of the prunable weights in common formats, and of a supermask network in bits."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping

import numpy as np
from torch import Tensor, nn

from pruneboard.models import extras
from pruneboard.models.cost.macs import LayerCost

VALUE_BYTES = 4
"""Size of a float32 value in bytes."""

VALUE_BITS, SEED_BITS = 32, 64
"""Size in bits of a float32 value, and of the seed of the frozen weights on the supermask track."""

LARGEST_INT32 = 2**31 - 1
"""Above this, `scipy.sparse` uses 8-byte indices."""


def storage_bytes(layers: Iterable[LayerCost], rows: Mapping[str, int]) -> dict[str, int]:
    """Return the bytes of the prunable weights in float32, by format.

    | format | bytes |
    |---|---|
    | `dense` | 4 per weight |
    | `bitmask` | one bit per weight, rounded up to whole bytes in each layer, and 4 per nonzero |
    | `csr` | `scipy.sparse.csr_matrix` of each layer with `rows` rows: per nonzero a value (4) and a column index, \
and rows + 1 row pointers; indices and pointers have 4 bytes, or 8 if rows, columns or nonzeros exceed 2^31 - 1 |

    Args:
        layers: the prunable layers.
        rows: output channels by layer name, `weight.shape[0]`.
    """
    dense = bitmask = csr = 0
    for layer in layers:
        dense += VALUE_BYTES * layer.n
        bitmask += -(-layer.n // 8) + VALUE_BYTES * layer.nonzero
        csr += _csr_bytes(rows[layer.name], layer.n // rows[layer.name], layer.nonzero)
    return {"dense": dense, "bitmask": bitmask, "csr": csr}


def _csr_bytes(rows: int, columns: int, nonzero: int) -> int:
    index = 8 if max(rows, columns, nonzero) > LARGEST_INT32 else 4  # scipy.sparse.get_index_dtype
    return (VALUE_BYTES + index) * nonzero + index * (rows + 1)


def compressed_bytes(weights: Iterable[Tensor]) -> int:
    """Return the bytes of `weights` after deflate (RFC 1951), a compressor that every system has.

    Each weight becomes one raw stream: the bitmask (a bit per position, row-major, first position in the highest bit),
    then the nonzero values as little-endian float32 in byte planes: all first bytes, then all second bytes and so on.
    Planes help because signs and exponents of weights are similar and mantissas are not. zlib searches for runs of one
    byte only (`Z_RLE`, level 6): other repetitions hardly occur in this data, and 25 million weights take seconds.
    Equal weights give equal sizes with the same build of zlib; other builds may differ slightly.

    Args:
        weights: tensors of any shape, zeros included.
    """
    return sum(len(_deflated(weight)) for weight in weights)


def _deflated(weight: Tensor) -> bytes:
    flat = weight.detach().float().cpu().numpy().reshape(-1)
    values = flat[flat != 0].astype("<f4")
    planes = np.ascontiguousarray(values.view(np.uint8).reshape(-1, VALUE_BYTES).T)
    stream = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    mask = stream.compress(np.packbits(flat != 0).tobytes())
    return mask + stream.compress(planes.tobytes()) + stream.flush()


def supermask_bits(layers: Iterable[LayerCost], model: nn.Module) -> dict[str, int]:
    """Return the bits that transmit a supermask network to a receiver with its architecture and init rule.

    | part | bits |
    |---|---|
    | `mask` | per layer log2 of the number of ways to choose `kept` of `n` positions, rounded up |
    | `counts` | `kept` of each layer, one of n + 1 values |
    | `seed` | the seed of the frozen weights |
    | `extras` | 32 per frozen number without a rule (position embeddings, tokens, layer scales) |
    | `statistics` | 32 per running mean and variance, which come from the data |

    Args:
        layers: the prunable layers.
        model: the plain network.
    """
    layers = list(layers)
    bits = {
        "mask": sum(math.ceil(_log2_choices(layer.n, layer.kept)) for layer in layers),
        "counts": sum(layer.n.bit_length() for layer in layers),
        "seed": SEED_BITS,
        "extras": VALUE_BITS * extras(model),
        "statistics": VALUE_BITS * sum(b.numel() for b in model.buffers() if b.is_floating_point()),
    }
    return {**bits, "total": sum(bits.values())}


def _log2_choices(n: int, k: int) -> float:
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)
