"""What operations cost on a GPU: how many kernels each starts, and which of them make the host wait.

Estimates, read from ATen's CUDA sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

NO_KERNEL = {
    "as_strided_", "detach", "empty", "empty_like", "empty_strided", "is_pinned", "is_same_size", "lift_fresh",
    "new_empty", "new_empty_strided", "record_stream", "_has_compatible_shallow_copy_type", "_reshape_alias",
    "_unsafe_view", "_version",
}  # fmt: skip
"""Operations without a kernel that the schema does not show to be views."""

SYNCHRONIZING = {
    "allclose", "bincount", "equal", "histc", "is_nonzero", "masked_select", "nonzero", "repeat_interleave",
    "unique_consecutive", "unique_dim", "_local_scalar_dense", "_unique2",
}  # fmt: skip
"""Operations whose result the host needs: a number, or the size of a tensor."""

NO_HOST_SCALAR = {
    "addmm", "bmm", "cat", "convolution", "gather", "index_copy", "index_copy_", "index_select", "mm", "scatter",
    "stack", "take", "where",
}  # fmt: skip
"""Operations that refuse even a 0-dimensional tensor of another device; the others take it as a number."""

KERNELS = {
    "convolution_backward": 2, "cumsum": 2, "equal": 2, "index_put_": 3, "kthvalue": 4, "nonzero": 3, "randperm": 8,
    "sort": 8, "topk": 4,
}  # fmt: skip
"""Kernels of an operation, where it is not 1."""

TENSORS_PER_KERNEL = {"_foreach_": 55, "_fused_adam_": 36, "_fused_sgd_": 48}
"""Prefix of the operations on lists of tensors -> tensors that fit into the arguments of one kernel."""

CHUNK, CHUNKS_PER_KERNEL, CAT_TENSORS = 65536, 320, 128
"""Elements per block and blocks per kernel of such an operation, and tensors per kernel of `cat`."""


def kernels(name: str, arguments: Sequence[Any]) -> int:
    """Return the estimated number of kernels of operation `name`."""
    for prefix, tensors_per_kernel in TENSORS_PER_KERNEL.items():
        if name.startswith(prefix):
            tensors: list[torch.Tensor] = arguments[0]
            chunks = sum(_ceil(tensor.numel(), CHUNK) for tensor in tensors)
            return max(_ceil(len(tensors), tensors_per_kernel), _ceil(chunks, CHUNKS_PER_KERNEL))
    if name in ("cat", "stack"):
        return _ceil(len(arguments[0]), CAT_TENSORS)
    return KERNELS.get(name, 1)


def _ceil(number: int, divisor: int) -> int:
    return -(-number // divisor)
