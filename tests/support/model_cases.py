"""A plan for networks on small images, shared by the tests of networks."""

from __future__ import annotations

from pruneboard.models import ModelPlan, plan_model


def plan(name, *, classes=10, size=32, original=32, enlarged=False, stem=None) -> ModelPlan:
    """Return the plan of a network, by default for ten classes of real images of 32 px."""
    return plan_model(name, num_classes=classes, image_size=size, original_size=original, enlarged=enlarged, stem=stem)
