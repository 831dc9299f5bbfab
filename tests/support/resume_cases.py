"""Runs that are interrupted and resumed, and how two finished runs are compared."""

from __future__ import annotations

import signal

from pruneboard.records import schema, store
from pruneboard.training import loop
from runs import folder

RUNS = {
    "dense": {"method": "dense", "sparsity": None},
    **{name: {"method": name} for name in ("gmp", "magnitude", "probmask", "random", "rigl", "snip", "str", "synflow")},
    "supermask edge-popup": {"method": "edge-popup", "track": "supermask", "sparsity": 0.5},
    "supermask probmask": {"method": "probmask", "track": "supermask", "sparsity": 0.5},
}

FORTY = {"overrides": {"epochs": 10}, "checkpoint_every": 5}
"""40 steps in epochs of four: step 25 is inside an epoch, and inside the search of every method except random."""

TWENTY = {"overrides": {"epochs": 5}, "checkpoint_every": 5}
"""20 steps in epochs of four."""


def assert_same_run(one, other):
    """Assert that two results folders contain the same run: record, metrics and weights, to the last bit."""
    texts = [schema.dumps(schema.canonical(store.read(folder(r) / "run.json"))) for r in (one, other)]
    assert texts[0] == texts[1]
    for name in ("metrics.jsonl", "model.safetensors", "mask.npz"):
        assert (folder(one) / name).read_bytes() == (folder(other) / name).read_bytes(), name


def first_steps(results):
    """Return the step at which each attempt of the only run started."""
    return [attempt["step"] for attempt in store.read(folder(results) / "run.json")["lifecycle"]["attempts"]]


def signal_at(monkeypatch, step, number=signal.SIGTERM):
    """Make signal `number` arrive during `step`."""
    original = loop._save_or_stop

    def save_or_stop(run, losses, request):
        if run.state.step == step:
            request.number = number
        original(run, losses, request)

    monkeypatch.setattr(loop, "_save_or_stop", save_or_stop)
