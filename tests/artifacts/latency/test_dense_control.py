"""The control of a run has no zeros, and is otherwise the same network."""

from __future__ import annotations

import torch

from pruneboard.artifacts.latency.dense_control import fill_zeros


def test_only_zeros_are_replaced(loaded):
    """Non-zeros stay bit for bit, zeros become small numbers, equal each time, and the run's network is unchanged."""
    first, again = fill_zeros(loaded), fill_zeros(loaded)
    for name in loaded.state:
        before, after = loaded.state[name], first.state[name]
        assert torch.equal(after, again.state[name])
        kept = before != 0 if name in loaded.weights else torch.ones_like(before, dtype=torch.bool)
        assert torch.equal(after[kept], before[kept])
        if name in loaded.weights:
            assert (after != 0).all()
            assert after[~kept].square().mean() < 0.02 * before.square().mean() + (before == 0).all()
    assert all(torch.equal(loaded.network.state_dict()[name], loaded.state[name]) for name in loaded.state)
