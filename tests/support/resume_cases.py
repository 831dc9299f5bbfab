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
"""40 steps, in epochs of four: step 25 is within one, and within every method's search but random's."""


TWENTY = {"overrides": {"epochs": 5}, "checkpoint_every": 5}


def check_equal(one, other):
    """Assert that two results folders hold the same run: record, metrics and weights, to the last bit."""
    texts = [schema.dumps(schema.canonical(store.read(folder(r) / "run.json"))) for r in (one, other)]
    assert texts[0] == texts[1]
    for name in ("metrics.jsonl", "model.safetensors", "mask.npz"):
        assert (folder(one) / name).read_bytes() == (folder(other) / name).read_bytes(), name


def attempts(results):
    """The steps at which the attempts of the one run went on."""
    return [attempt["step"] for attempt in store.read(folder(results) / "run.json")["lifecycle"]["attempts"]]


def stop(monkeypatch, step, number=signal.SIGTERM):
    """Let the signal arrive during `step`."""
    whole = loop._save_or_stop

    def stop_or_save(run, losses, request):
        if run.state.step == step:
            request.number = number
        whole(run, losses, request)

    monkeypatch.setattr(loop, "_save_or_stop", stop_or_save)
