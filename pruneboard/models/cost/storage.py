"""What the weights of a network take up, in the formats that people have."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping

import numpy as np
from torch import Tensor, nn

from pruneboard.models import extras
from pruneboard.models.cost.macs import LayerCost

VALUE_BYTES = 4
"""Of a float32 value."""

VALUE_BITS, SEED_BITS = 32, 64
"""Of a float32 value and of the seed of the frozen weights, on the supermask track."""

LARGEST_INT32 = 2**31 - 1
"""scipy.sparse takes wider indices where a number is larger."""


def storage_bytes(layers: Iterable[LayerCost], rows: Mapping[str, int]) -> dict[str, int]:
    """Return the bytes of the prunable weights in float32, by format.

    `dense`: 4 per weight. `bitmask`: one bit per weight, filled up to whole bytes in each layer, and 4 per
    nonzero. `csr`: each layer as `scipy.sparse.csr_matrix` holds it as a matrix of `rows` rows: 4 per nonzero
    value, an index for the column of each, and one for each row and one more; an index has 4 bytes, or 8 in a layer
    that has more than 2^31 - 1 rows, columns or nonzeros.

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
    """Return the bytes of `weights` after a compressor that every system has: deflate (RFC 1951).

    Of each weight one raw stream is made, of the bitmask (a bit per position, row-major, the first in the highest
    bit) and then the nonzero values as little-endian float32, byte plane by byte plane: all first bytes, all second
    ones and so on, since signs and exponents of weights resemble each other and mantissas resemble nothing. zlib
    looks for runs of one byte only (`Z_RLE`, level 6): in such data there is nothing else to find, and a run of
    25 million weights takes seconds. Equal weights come to equal bytes under one build of zlib; others may differ a
    little.

    Args:
        weights: of any shape, with their zeros.
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
    """Return the bits that tell a supermask network to someone who has its architecture and the rule of its weights.

    `mask`: which `kept` of `n` positions each layer keeps, log2 of the number of choices. `counts`: these numbers,
    one of n + 1 per layer. `seed`: of the frozen weights. `extras`: 32 per frozen number that no rule gives
    (position embeddings, tokens, layer scales). `statistics`: 32 per running mean and variance, which
    come from the data.

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
