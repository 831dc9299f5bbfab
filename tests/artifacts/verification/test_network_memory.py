"""A record cannot make pruneboard allocate more than its files justify, whatever network it names."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import timm

import verify_cases as cases
from pruneboard.artifacts.verification import network
from verify_cases import copied, edit, rehash

HUGE = [name for name in ("vit_7b_patch16_dinov3", "eva02_enormous_patch14_clip_224") if timm.is_model(name)]
"""Networks with 6.7 and 4.4 billion weights, which take 27 and 17 GB."""

LIMITED = """
import json, resource, sys
from pathlib import Path

import torch
from pruneboard.artifacts.exporting.export import export
from pruneboard.artifacts.latency.measure import measure
from pruneboard.artifacts.latency.options import LatencyOptions
from pruneboard.artifacts.verification.verify import verify
from pruneboard.errors import PruneboardError

honest, hostile = map(Path, sys.argv[1:])
options = LatencyOptions(engines=("torch",), batches=(1,), rounds=1)
actions = {
    "verify": lambda run: [check.name for check in next(verify([run])).of("failed")],
    "export": lambda run: str(export(run, formats=["safetensors"], force=True)),
    "latency": lambda run: str(measure(run, options)),
}
for action in actions.values():
    action(honest)  # imports and the data set are part of the baseline

pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 600 * 2**20,) * 2)
try:
    torch.empty(700 * 2**20, dtype=torch.uint8)
except RuntimeError:
    pass
else:
    raise SystemExit("the limit has no effect")

results = {}
for name, action in actions.items():
    try:
        results[name] = action(hostile)
    except PruneboardError as error:
        results[name] = str(error)
print(json.dumps(results))
"""


@pytest.mark.parametrize("name", [HUGE[0], *(pytest.param(name, marks=pytest.mark.slow) for name in HUGE[1:])])
def test_a_huge_network_beside_a_small_file_is_not_built(trained, tmp_path, name):
    """Verify, export and latency name the shapes that do not fit, within 600 MiB above their baseline."""
    honest, hostile = copied(trained, tmp_path / "honest"), copied(trained, tmp_path / "hostile")
    edit(hostile, model__name=name, model__load_as=name, board__model=name)
    planned = dict(network.plan_of(cases.record_of(hostile)).create_args)
    edit(hostile, model__create_args=planned, board__create_args=planned)
    rehash(hostile)
    command = [sys.executable, "-c", LIMITED, honest, hostile]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert "weights.network" in results["verify"]
    for action in ("export", "latency"):
        assert "is disputed and is not" in results[action]
        assert f"weights.network: the weights do not fit {name}" in results[action]
