"""Networks: any timm classifier, and four small ones for 32x32 images, under names that timm loads.

Importing this package registers the networks of `cifar.py` and the small stems of `stems.py` with timm.

    plan = plan_model("resnet18", num_classes=10, image_size=32, original_size=32, enlarged=False, stem=None)
    model = build_model(plan, seed=0)
    again = timm.create_model(plan.load_as, **plan.create_args)      # the same network
"""

from __future__ import annotations

from pruneboard.models import cifar, stems
from pruneboard.models.building import build_model, check_init, state_sha256
from pruneboard.models.frozen import build_frozen, draw_weights, extras, freeze, is_scale, redraw_weights
from pruneboard.models.names import model_names
from pruneboard.models.planning import ModelPlan, meta_model, plan_model
from pruneboard.models.scope import (
    SCOPES,
    decays,
    gated_layers,
    left_out,
    prunable_layers,
    standardized,
    uses_batch_statistics,
)

__all__ = [
    "SCOPES",
    "ModelPlan",
    "build_frozen",
    "build_model",
    "check_init",
    "cifar",
    "decays",
    "draw_weights",
    "extras",
    "freeze",
    "gated_layers",
    "is_scale",
    "left_out",
    "meta_model",
    "model_names",
    "plan_model",
    "prunable_layers",
    "redraw_weights",
    "standardized",
    "state_sha256",
    "stems",
    "uses_batch_statistics",
]
