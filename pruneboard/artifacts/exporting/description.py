"""The JSON description in every export: how to build the network and prepare images, and what it scored."""

from __future__ import annotations

import json
from typing import Any

from pruneboard.artifacts.finished_run import FinishedRun
from pruneboard.models.standalone import in_timm
from pruneboard.records.schema import lookup

KEY = "pruneboard"
"""Name of the description in the metadata of a safetensors file and of an ONNX file."""

SCHEMA = 1


def describe(run: FinishedRun) -> dict[str, Any]:
    """Return the description as plain JSON; it is the same in every format and has neither paths nor dates."""
    record, plan = run.record, run.plan
    size = record["data"]["image_size"]
    return {
        "schema": SCHEMA,
        "network": {
            "name": plan.load_as,
            "arguments": json.loads(json.dumps(plan.create_args)),
            "built_by": "timm" if in_timm(plan.load_as) else "network.py",
        },
        "images": {
            "shape": ["batch", 3, size, size],
            "channels": "RGB",
            "prepared": "(pixel / 255 - mean) / std",
            "mean": record["data"]["mean"],
            "std": record["data"]["std"],
        },
        "prunable": {name: record["sparsity"][name] for name in ("prunable", "nonzero", "measured")},
        "test": {name: lookup(record, f"metrics.test.{name}") for name in ("correct", "count", "top1")},
        "run": {
            "hash": record["hash"],
            "weights_sha256": record["weights_sha256"],
            "method": record["method"]["name"],
            "data": record["data"]["name"],
            "seed": record["seed"],
        },
    }


def dumps(run: FinishedRun) -> str:
    """Return the description as one line of ASCII."""
    return json.dumps(describe(run), sort_keys=True, allow_nan=False)
