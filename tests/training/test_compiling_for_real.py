"""Runs that are really compiled by torch.compile: the same result up to rounding, for every method."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import runs
from compile_cases import build_engine, train
from pruneboard.training import engine as engine_module
from pruneboard.training.compiling import CompiledNetwork

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@pytest.fixture(scope="module", autouse=True)
def shut_down():
    """Destroy the process group that the engines here start."""
    yield
    engine_module.shutdown()


CALM = {"lr": 1e-3, "epochs": 5}
"""Twenty small steps: at the recipe's rate, a rounding difference would grow tenfold per step."""

SLOW_GATES = {"probmask": {"lr": "1e-4", "travel": "0", "samples": "1"}, "edge-popup": {"lr": "1e-3", "travel": "0"}}

CALM_MODELS = {"rigl": "test_vit"}
"""If almost nothing passes a normalized channel, rounding is 1 % of some gradients, by which RigL moves masks."""

PRUNE = ("dense", "random", "magnitude", "gmp", "rigl", "str", "probmask", "snip", "synflow")

METHODS = [(name, "prune") for name in PRUNE]
METHODS += [(name, "supermask") for name in ("edge-popup", "probmask")]


def weights(folder) -> Tensor:
    """Return all folded weights of a run in one tensor, without statistics."""
    state = load_file(runs.folder(folder) / "model.safetensors")
    return torch.cat([tensor.flatten() for name, tensor in state.items() if name.endswith(("weight", "bias"))])


@pytest.mark.slow
@pytest.mark.parametrize(("method", "track"), METHODS)
def test_every_method_trains_alike_when_compiled(tmp_path, method, track):
    """After 20 steps as many weights are kept, at most 1 in 200 elsewhere, and all are within 10 % in norm."""
    sparsity = {"dense": None, "edge-popup": 0.5}.get(method, 0.9)
    how = {"track": track, "overrides": CALM, "options": SLOW_GATES.get(method, {})}
    how["model"] = CALM_MODELS.get(method, "test_resnet")
    plain, compiled = (runs.run(tmp_path / str(flag), method, sparsity, compile=flag, **how) for flag in (False, True))
    assert compiled["sparsity"]["kept"] == plain["sparsity"]["kept"]
    first, second = (weights(tmp_path / str(flag)) for flag in (False, True))
    moved = int(((first != 0) != (second != 0)).sum())
    assert moved <= 0.005 * int((first != 0).sum())
    assert float((first - second).norm()) < 0.1 * float(first.norm())


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"zero": 2}, {"precision": "bf16"}], ids=["plain", "zero", "bf16"])
def test_one_compiled_step_equals_the_plain_step(how):
    """With equal weights and uncompilable gates, up to rounding (2^-8 in bfloat16)."""
    states = []
    for compiled in (False, True):
        engine, _, draw_key = build_engine(compiled=compiled, **how)
        train(engine, draw_key, 0)
        engine.close()
        states.append(engine.model.state_dict())
    tolerance = 1e-2 if how.get("precision") == "bf16" else 1e-4
    torch.testing.assert_close(states[1], states[0], rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_dropout_drops_the_same_units():
    """Compiled code draws from torch's generator, so a seed means the same."""
    net = nn.Sequential(nn.Dropout(0.5))
    compiled = CompiledNetwork(net, "dropout")
    outputs = []
    for call in (net, compiled, compiled):
        torch.manual_seed(5)
        outputs.append(call(torch.ones(4, 16, requires_grad=True)))
    compiled.close()
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[1], outputs[2])


@pytest.mark.slow
def test_two_compiled_runs_agree_in_every_bit(tmp_path):
    """On one machine, a compiled run is as deterministic as a plain one."""
    first, second = (runs.run(tmp_path / name, "probmask", model="tiny_tied", compile=True) for name in "ab")
    assert first["weights_sha256"] == second["weights_sha256"]


@pytest.mark.slow
def test_two_processes_compile_and_agree(tmp_path):
    """Each process compiles for itself; their masks are compared after hardening, as always."""
    made = runs.run(tmp_path, "probmask", model="test_vit", procs=2, compile=True)
    assert made["status"] == "done"
    assert (made["engine"]["world_size"], made["engine"]["compile"]) == (2, True)
