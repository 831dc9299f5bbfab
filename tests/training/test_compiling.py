"""`--compile`: the network is compiled and no gate is, so every method trains as it does without.

By default the compiler is stood in for by a backend that runs the captured graph as it is: what torch captures, and
how often, is then seen exactly. The slow tests compile for real.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch._inductor import config as inductor

import networks
import runs
from pruneboard.api import Gate, Pruner
from pruneboard.cli import invoke
from pruneboard.errors import RunError, UsageError
from pruneboard.models import gated_layers
from pruneboard.spec import Recipe
from pruneboard.training import compiling, gates
from pruneboard.training import engine as deepspeed_door
from pruneboard.training.compiling import CompiledNetwork, check_compiler
from pruneboard.training.engine import Engine
from pruneboard.training.evaluate import batch_norms, frozen_batch_statistics, reestimate_statistics
from pruneboard.training.optim import parameter_groups
from pruneboard.training.scoring import ScoringView, dense_gradients

# torch hides this warning where it looks at `.grad`, which does not help where warnings are errors.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

CPU = torch.device("cpu")
RECIPE = Recipe(name="x", epochs=1, batch_size=8, lr=0.1, image_size=8)


class Stranger(Gate):
    """Does what no compiler follows: draws from a generator, branches on values, counts in a Python integer."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(weight.shape))
        self.calls = 0

    def forward(self, weight: Tensor) -> Tensor:
        self.calls += 1
        shifted = weight + self.shift
        if not self.training or float(shifted.detach().sum()) == 0:
            return shifted
        return shifted * torch.rand(weight.shape, generator=self.draw())


@dataclass(frozen=True, kw_only=True)
class Strange(Pruner[Stranger]):
    def gate(self, weight: Tensor) -> Stranger:
        return Stranger(weight)


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that were captured; they run as they are."""
    found = []

    def backend(graph, inputs):
        found.append(graph)
        return graph.forward

    monkeypatch.setattr(compiling, "COMPILE_OPTIONS", {"backend": backend})
    return found


@pytest.fixture(scope="module", autouse=True)
def left():
    """Leave the process group that the engines here start."""
    yield
    deepspeed_door.shutdown()


def normalized() -> nn.Sequential:
    """A small network with batch normalization, the same one every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        conv, end = nn.Conv2d(3, 4, 3, bias=False), nn.Linear(4, 10)
    return nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), end)


def images(count, seed=0) -> Tensor:
    """Images, always the same."""
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def started(*, compiled, net=None, zero=0, precision="fp32"):
    """An engine over a small network with strange gates, their layers, and what tells them the step."""
    net = net or normalized()
    draw_key = gates.DrawKey(0)
    pruner = Strange(sparsity=0.5)
    layers = gates.attach(pruner, gated_layers(net), draw_key, hits_target=True)
    groups = parameter_groups(net, [], RECIPE, None)
    stand_in = CompiledNetwork(net, "small") if compiled else None
    engine = Engine(net, groups, device=CPU, micro_batch=8, clip=3.0, zero=zero, precision=precision, compiled=stand_in)
    return engine, layers, draw_key


def train(engine, draw_key, step) -> None:
    """Take a step of two passes, the second without recording statistics, at a rate of its own."""
    draw_key.step = step
    engine.model.train()
    for group in engine.groups:
        group["lr"] = 0.1 / (1 + step)
    for index in range(2):
        draw_key.forward_pass = index
        with frozen_batch_statistics(batch_norms(engine.model) if index else ()):
            loss = engine.forward(images(8, step)).square().mean()
        engine.backward(loss, last=index == 1)
    engine.step()


def trained(graphs, *, compiled, steps, **how):
    """The state after training, evaluating on batches of two sizes, and re-estimating between the steps."""
    graphs.clear()
    engine, layers, draw_key = started(compiled=compiled, **how)
    seen = []
    for step in range(steps):
        train(engine, draw_key, step)
        with torch.no_grad():
            seen += [engine.forward(images(size)) for size in (8, 5)]
        reestimate_statistics(engine, [(images(8, 9), torch.zeros(8))])
        engine.model.eval()
    engine.close()
    return engine.model.state_dict(), seen, [layer.gate.calls for layer in layers], len(graphs)


def assert_same_bits(first, second) -> None:
    """Assert that two states agree in every bit."""
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


# What is captured


@pytest.mark.parametrize("how", [{}, {"zero": 2}, {"precision": "bf16"}], ids=["plain", "zero", "bf16"])
def test_a_strangers_gate_trains_to_the_same_bits(graphs, how):
    """Whatever a gate does, training, evaluation on any batch size and re-estimation are those without `--compile`."""
    plain, outputs, calls, none = trained(graphs, compiled=False, steps=3, **how)
    state, same_outputs, same_calls, captured = trained(graphs, compiled=True, steps=3, **how)
    assert_same_bits(plain, state)
    assert all(torch.equal(a, b) for a, b in zip(outputs, same_outputs, strict=True))
    assert (none, captured) == (0, 2)  # with and without recording statistics
    assert calls == same_calls


def test_nothing_is_compiled_anew_as_training_goes_on(graphs):
    """Two graphs after one step, and after seven: masks, draws, rates and steps are no part of them."""
    assert [trained(graphs, compiled=True, steps=steps)[3] for steps in (1, 7)] == [2, 2]


@pytest.mark.parametrize("compiled", [False, True])
def test_every_gate_runs_once_per_forward_pass(graphs, compiled):
    """Also where two layers share its weight, in training and in evaluation."""
    engine, layers, _ = started(compiled=compiled, net=networks.Tied())
    before = [layer.gate.calls for layer in layers]  # `attach` looks at a gate once
    for _ in range(3):
        engine.forward(torch.ones(8, 3, 16, 16))
    with torch.no_grad():
        engine.forward(torch.ones(8, 3, 16, 16))
    engine.close()
    assert [layer.gate.calls - calls for layer, calls in zip(layers, before, strict=True)] == [4, 4, 4]


def test_dense_gradients_are_those_without(graphs):
    """The gradient of every effective weight is collected outside of what is compiled."""
    found = []
    for compiled in (False, True):
        engine, layers, draw_key = started(compiled=compiled)
        with dense_gradients(layers, wanted=True) as gradients:
            train(engine, draw_key, 0)
        engine.close()
        found.append(gradients)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert all(bool(gradient.any()) for gradient in found[0])


def test_a_view_compiles_nothing(graphs):
    """Scoring methods call the network itself, with weights of their own."""
    engine, layers, _ = started(compiled=True)
    view = ScoringView(engine.model, layers, 8, 0.0)
    assert view.logits(images(4), [2 * layer.dense for layer in layers]).requires_grad
    engine.close()
    assert not graphs


def test_no_effective_weight_outlives_its_pass(graphs):
    """After a pass, and after one that fails, gates are asked again, and no state has another name."""
    engine, _, draw_key = started(compiled=True)
    names = list(engine.model.state_dict())
    engine.forward(images(8))
    with pytest.raises(RunError, match="small"):
        engine.forward(images(8)[:, :2])
    assert list(engine.model.state_dict()) == names
    first = engine.model[0].weight
    draw_key.step = 1
    assert not torch.equal(engine.model[0].weight, first)
    engine.close()


def test_runs_in_one_process_do_not_add_up(graphs):
    """More runs than torch allows graphs for one function, none of them refused, and none left behind."""
    for count in range(1, 13):
        net = nn.Linear(count, 2)
        CompiledNetwork(net, "small")(torch.ones(1, count)).sum().backward()
    assert len(graphs) == 12


# Whole runs


@pytest.mark.parametrize(
    ("method", "track"),
    [("magnitude", "prune"), ("probmask", "prune"), ("rigl", "prune"), ("edge-popup", "supermask")],
)
def test_a_run_ends_in_the_same_bits(graphs, tmp_path, method, track):
    """The folded weights of a network with a shared weight are those of the run without, from one graph."""
    plain, compiled = (
        runs.run(tmp_path / str(flag), method, model="tiny_tied", track=track, compile=flag) for flag in (False, True)
    )
    assert compiled["weights_sha256"] == plain["weights_sha256"]
    assert compiled["metrics"] == plain["metrics"]
    assert len(graphs) == 1
    assert (plain["engine"]["compile"], compiled["engine"]["compile"]) == (False, True)


def test_how_a_run_is_computed_is_no_part_of_what_it_is(graphs, tmp_path):
    """A run that was compiled is done: without `--compile` the same record is returned."""
    first = runs.run(tmp_path, model="tiny_tied", compile=True)
    again = runs.run(tmp_path, model="tiny_tied")
    assert again["hash"] == first["hash"]
    assert again["engine"]["compile"] is True


# What is refused


def test_a_network_that_cannot_be_compiled_is_named(graphs, tmp_path):
    """One line says which network, why, and what to do; the record holds it."""
    with pytest.raises(RunError) as caught:
        runs.run(tmp_path, model="tiny_undecided", compile=True)
    message = str(caught.value)
    assert message.startswith("torch.compile fails on tiny_undecided: leave --compile out (")
    assert "\n" not in message
    made = json.loads((runs.folder(tmp_path) / "run.json").read_text())
    assert made["status"] == "failed"
    assert made["error"] == {"kind": "RunError", "message": message}
    assert runs.run(tmp_path, model="tiny_undecided", force=True)["status"] == "done"


def test_a_backend_that_fails_is_told_by_its_own_words(monkeypatch):
    """The error of a compiler that torch calls is wrapped by torch; the message has what is inside."""

    def backend(graph, inputs):
        raise OSError("\nno space left\nfor objects")

    monkeypatch.setattr(compiling, "COMPILE_OPTIONS", {"backend": backend})
    with pytest.raises(RunError, match=r"^torch.compile fails on thing: leave --compile out \(OSError: no space left"):
        CompiledNetwork(nn.Linear(2, 2), "thing")(torch.ones(1, 2))


def test_errors_of_the_network_itself_pass_through(graphs):
    """What a graph raises when it runs, such as a lack of memory, is told as it is without `--compile`."""

    def backend(graph, inputs):
        def run(*given):
            raise torch.OutOfMemoryError("no memory left")

        return run

    compiling.COMPILE_OPTIONS["backend"] = backend
    with pytest.raises(torch.OutOfMemoryError, match="no memory left"):
        CompiledNetwork(nn.Linear(2, 2), "thing")(torch.ones(1, 2))


def test_a_missing_cpp_compiler_is_a_usage_error(tmp_path, capfd):
    """It is found out before anything is written, and the line says what to install."""
    arguments = ["run", "-m", "magnitude", "--model", "test_resnet", "-s", "0.9", "--device", "cpu", "--compile"]
    place = tmp_path / "results"
    with inductor.patch({"cpp.cxx": (None, "no-such-compiler")}):
        assert invoke([*arguments, "--results", str(place)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: --compile needs a C++ compiler, and torch finds none that runs: install g++")
    assert not place.exists()


def test_a_python_that_torch_does_not_compile_is_a_usage_error(monkeypatch):
    """What torch.compile itself says is passed on, in one line."""

    def refuse(model):
        raise RuntimeError("torch.compile is not supported on Python 3.99+\nmore")

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(UsageError, match=r"does not work here: torch.compile is not .* 3\.99") as found:
        check_compiler(CPU)
    assert "\n" not in str(found.value)


def test_a_gpu_without_triton_is_a_usage_error(monkeypatch):
    """It needs no GPU to find out."""
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install triton"):
        check_compiler(torch.device("cuda"))


# Compiled for real

CALM = {"lr": 1e-3, "epochs": 5}
"""Twenty steps so small that a difference in rounding stays one: at the recipe's rate it grows tenfold each step."""

SLOW_GATES = {"probmask": {"lr": "1e-4", "travel": "0", "samples": "1"}, "edge-popup": {"lr": "1e-3", "travel": "0"}}
CALM_MODELS = {"rigl": "test_vit"}
"""Where almost nothing passes a normalized channel rounding is 1 % of some gradient, and RigL moves masks by that."""

PRUNE = ("dense", "random", "magnitude", "gmp", "rigl", "str", "probmask", "snip", "synflow")
METHODS = [(name, "prune") for name in PRUNE]
METHODS += [(name, "supermask") for name in ("edge-popup", "probmask")]


def weights(folder) -> Tensor:
    """All folded weights of a run in one tensor, statistics left out."""
    state = load_file(runs.folder(folder) / "model.safetensors")
    return torch.cat([tensor.flatten() for name, tensor in state.items() if name.endswith(("weight", "bias"))])


@pytest.mark.slow
@pytest.mark.parametrize(("method", "track"), METHODS)
def test_every_method_trains_alike_when_compiled(tmp_path, method, track):
    """After 20 steps: as many weights kept, 1 in 200 elsewhere at most, and all of them within 10 % in norm."""
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
def test_one_compiled_step_is_the_step_without(how):
    """From equal weights, rounding apart (2^-8 in bfloat16), with gates that no compiler follows."""
    states = []
    for compiled in (False, True):
        engine, _, draw_key = started(compiled=compiled, **how)
        train(engine, draw_key, 0)
        engine.close()
        states.append(engine.model.state_dict())
    tolerance = 1e-2 if how.get("precision") == "bf16" else 1e-4
    torch.testing.assert_close(states[1], states[0], rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_dropout_drops_the_same_units():
    """Compiled code draws from torch's generator, so that a seed means the same."""
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
    """On one machine, a seed's result is as fixed as it is without."""
    first, second = (runs.run(tmp_path / name, "probmask", model="tiny_tied", compile=True) for name in "ab")
    assert first["weights_sha256"] == second["weights_sha256"]


@pytest.mark.slow
def test_two_processes_compile_and_agree(tmp_path):
    """Each compiles for itself; their masks are compared after hardening, as always."""
    made = runs.run(tmp_path, "probmask", model="test_vit", procs=2, compile=True)
    assert made["status"] == "done"
    assert (made["engine"]["world_size"], made["engine"]["compile"]) == (2, True)
