"""The engine as hooks see it, for tests that drive a method without one."""

from __future__ import annotations

import torch


class Writer:
    """Stands for the engine at stage 0, where a write is a write; none of the built-in methods resets anything."""

    def assign(self, parameter, new):
        """Write at once."""
        with torch.no_grad():
            parameter.copy_(new)

    def reset_optimizer_state(self, parameter, mask):
        """Fail."""
        raise AssertionError("this method resets nothing")
