"""torch.compile captures the network and no gate, so every method trains as it does without it.

A stand-in backend runs the captured graph as it is, which shows exactly what torch captures, and how often. Real
compilation is tested in test_compiling_for_real.py.
"""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch._inductor import config as inductor

import networks
import runs
from compile_cases import CPU, build_engine, images, train
from pruneboard.cli import invoke
from pruneboard.errors import RunError, UsageError
from pruneboard.training import compiling
from pruneboard.training import engine as engine_module
from pruneboard.training.compiling import CompiledNetwork, check_compiler
from pruneboard.training.evaluate import reestimate_statistics
from pruneboard.training.scoring import ScoringView, dense_gradients

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@pytest.fixture
def graphs(monkeypatch):
    """Collect the captured graphs; they run as they are."""
    found = []

    def backend(graph, inputs):
        found.append(graph)
        return graph.forward

    monkeypatch.setattr(compiling, "COMPILE_OPTIONS", {"backend": backend})
    return found


@pytest.fixture(scope="module", autouse=True)
def shut_down():
    """Destroy the process group that the engines here start."""
    yield
    engine_module.shutdown()


def trained(graphs, *, compiled, steps, **how):
    """Train, evaluate on batches of two sizes and re-estimate after every step; return state, logits and counts."""
    graphs.clear()
    engine, layers, draw_key = build_engine(compiled=compiled, **how)
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


@pytest.mark.parametrize("how", [{}, {"zero": 2}, {"precision": "bf16"}], ids=["plain", "zero", "bf16"])
def test_an_uncompilable_gate_trains_to_the_same_bits(graphs, how):
    """Training, evaluation at any batch size and re-estimation give the bits of a run without `--compile`."""
    plain, outputs, calls, none = trained(graphs, compiled=False, steps=3, **how)
    state, same_outputs, same_calls, captured = trained(graphs, compiled=True, steps=3, **how)
    assert_same_bits(plain, state)
    assert all(torch.equal(a, b) for a, b in zip(outputs, same_outputs, strict=True))
    assert (none, captured) == (0, 2)  # with and without recording statistics
    assert calls == same_calls


def test_nothing_is_recompiled_during_training(graphs):
    """There are two graphs after one step and after seven: masks, draws, rates and steps are not part of them."""
    assert [trained(graphs, compiled=True, steps=steps)[3] for steps in (1, 7)] == [2, 2]


@pytest.mark.parametrize("compiled", [False, True])
def test_every_gate_runs_once_per_forward_pass(graphs, compiled):
    """Every gate is evaluated once, even if two layers share its weight, in training and in evaluation."""
    engine, layers, _ = build_engine(compiled=compiled, net=networks.Tied())
    before = [layer.gate.calls for layer in layers]  # `attach` looks at a gate once
    for _ in range(3):
        engine.forward(torch.ones(8, 3, 16, 16))
    with torch.no_grad():
        engine.forward(torch.ones(8, 3, 16, 16))
    engine.close()
    assert [layer.gate.calls - calls for layer, calls in zip(layers, before, strict=True)] == [4, 4, 4]


def test_dense_gradients_are_the_same_when_compiled(graphs):
    """The gradients of effective weights are collected outside of the compiled graph."""
    found = []
    for compiled in (False, True):
        engine, layers, draw_key = build_engine(compiled=compiled)
        with dense_gradients(layers, wanted=True) as gradients:
            train(engine, draw_key, 0)
        engine.close()
        found.append(gradients)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert all(bool(gradient.any()) for gradient in found[0])


def test_a_view_compiles_nothing(graphs):
    """Scoring methods call the plain network, with weights of their own."""
    engine, layers, _ = build_engine(compiled=True)
    view = ScoringView(engine.model, layers, 8, 0.0)
    assert view.logits(images(4), [2 * layer.dense for layer in layers]).requires_grad
    engine.close()
    assert not graphs


def test_no_effective_weight_outlives_its_pass(graphs):
    """After a pass, and after one that fails, gates are evaluated again, and the names in the state are the same."""
    engine, _, draw_key = build_engine(compiled=True)
    names = list(engine.model.state_dict())
    engine.forward(images(8))
    with pytest.raises(RunError, match="small"):
        engine.forward(images(8)[:, :2])
    assert list(engine.model.state_dict()) == names
    first = engine.model[0].weight
    draw_key.step = 1
    assert not torch.equal(engine.model[0].weight, first)
    engine.close()


def test_graphs_of_many_runs_do_not_accumulate(graphs):
    """More runs in one process than torch's limit of graphs per function all compile."""
    for count in range(1, 13):
        net = nn.Linear(count, 2)
        CompiledNetwork(net, "small")(torch.ones(1, count)).sum().backward()
    assert len(graphs) == 12


@pytest.mark.parametrize(
    ("method", "track"),
    [("magnitude", "prune"), ("probmask", "prune"), ("rigl", "prune"), ("edge-popup", "supermask")],
)
def test_a_run_ends_in_the_same_bits(graphs, tmp_path, method, track):
    """The folded weights of a network with a shared weight equal those without `--compile`, from one graph."""
    plain, compiled = (
        runs.run(tmp_path / str(flag), method, model="tiny_tied", track=track, compile=flag) for flag in (False, True)
    )
    assert compiled["weights_sha256"] == plain["weights_sha256"]
    assert compiled["metrics"] == plain["metrics"]
    assert len(graphs) == 1
    assert (plain["engine"]["compile"], compiled["engine"]["compile"]) == (False, True)


def test_compilation_is_not_part_of_the_content_hash(graphs, tmp_path):
    """A finished run that was compiled is returned when the same run is requested without `--compile`."""
    first = runs.run(tmp_path, model="tiny_tied", compile=True)
    again = runs.run(tmp_path, model="tiny_tied")
    assert again["hash"] == first["hash"]
    assert again["engine"]["compile"] is True


def test_a_network_that_cannot_be_compiled_is_named(graphs, tmp_path):
    """One line names the network, the reason and the remedy; the record has it too."""
    with pytest.raises(RunError) as caught:
        runs.run(tmp_path, model="tiny_undecided", compile=True)
    message = str(caught.value)
    assert message.startswith("torch.compile fails on tiny_undecided: leave --compile out (")
    assert "\n" not in message
    made = json.loads((runs.folder(tmp_path) / "run.json").read_text())
    assert made["status"] == "failed"
    assert made["error"] == {"kind": "RunError", "message": message}
    assert runs.run(tmp_path, model="tiny_undecided", force=True)["status"] == "done"


def test_an_error_of_a_backend_is_unwrapped(monkeypatch):
    """Torch wraps the errors of its backends; the message has the original one."""

    def backend(graph, inputs):
        raise OSError("\nno space left\nfor objects")

    monkeypatch.setattr(compiling, "COMPILE_OPTIONS", {"backend": backend})
    with pytest.raises(RunError, match=r"^torch.compile fails on thing: leave --compile out \(OSError: no space left"):
        CompiledNetwork(nn.Linear(2, 2), "thing")(torch.ones(1, 2))


def test_errors_of_the_network_itself_pass_through(graphs):
    """An error that a graph raises when it runs, such as out of memory, is not converted."""

    def backend(graph, inputs):
        def run(*given):
            raise torch.OutOfMemoryError("no memory left")

        return run

    compiling.COMPILE_OPTIONS["backend"] = backend
    with pytest.raises(torch.OutOfMemoryError, match="no memory left"):
        CompiledNetwork(nn.Linear(2, 2), "thing")(torch.ones(1, 2))


def test_a_missing_cpp_compiler_is_a_usage_error(tmp_path, capfd):
    """It is found before anything is written, and the message says what to install."""
    arguments = ["run", "-q", "-m", "magnitude", "--model", "test_resnet", "-s", "0.9", "--device", "cpu", "--compile"]
    place = tmp_path / "results"
    with inductor.patch({"cpp.cxx": (None, "no-such-compiler")}):
        assert invoke([*arguments, "--results", str(place)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: --compile needs a C++ compiler, and torch finds none that runs: install g++")
    assert not place.exists()


def test_an_unsupported_python_is_a_usage_error(monkeypatch):
    """The message of torch.compile is passed on, in one line."""

    def refuse(model):
        raise RuntimeError("torch.compile is not supported on Python 3.99+\nmore")

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(UsageError, match=r"does not work here: torch.compile is not .* 3\.99") as found:
        check_compiler(CPU)
    assert "\n" not in str(found.value)


def test_a_gpu_without_triton_is_a_usage_error(monkeypatch):
    """The check needs no GPU."""
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install triton"):
        check_compiler(torch.device("cuda"))
