"""`pruneboard latency`: what is timed computes the run's network, and what is said of it is complete and honest."""

from __future__ import annotations

import functools
import itertools
import json
import sys

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import networks  # noqa: F401 - registers tiny networks
from pruneboard.artifacts.exporting.subject import checked
from pruneboard.artifacts.latency import control, document, engines, measuring, showing, sparse, timing
from pruneboard.artifacts.latency.asked import ENGINES, Asked
from pruneboard.cli import invoke
from pruneboard.models import prunable_layers
from pruneboard.records import store
from runs import folder as run_folder
from runs import run
from verify_cases import copied, edit, record_of

QUICK = ["--rounds", "1", "--warmup", "0", "--batch", "1", "--batch", "3"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Name of a network -> the folder of a run pruned to 0.8, made when it is first asked for. Not to be written to."""

    def make(name, **changes):
        results = tmp_path_factory.mktemp("results")
        run(results, "magnitude", 0.8, model=name, **changes)
        return run_folder(results)

    return functools.cache(make)


@pytest.fixture
def one(made, tmp_path):
    """A copy of the run of test_resnet."""
    return copied(made("test_resnet"), tmp_path / "run")


@pytest.fixture(scope="module")
def found(made):
    """The document of the run of test_resnet, in every engine."""
    return measuring.measure(made("test_resnet"), Asked(batches=(1, 3), rounds=2, warmup=0))


def zeroed(network, share=0.7):
    """The network with a share of each prunable weight set to zero, in evaluation mode."""
    generator = torch.Generator().manual_seed(1)
    for _, layer in prunable_layers(network):
        layer.weight.data[torch.rand(layer.weight.shape, generator=generator) < share] = 0
    return network.eval()


def close(ours, theirs):
    """Assert equal to rounding."""
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


# Layers


@settings(deadline=None, max_examples=40)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    padding=st.one_of(st.tuples(st.integers(0, 2), st.integers(0, 2)), st.just("valid")),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    groups=st.sampled_from([1, 2, 4]),
    batch=st.integers(1, 3),
    bias=st.booleans(),
)
def test_a_sparse_convolution_is_that_of_torch(kernel, stride, padding, dilation, groups, batch, bias):
    """For any kernel, stride, padding, dilation and groups, windows times CSR give what torch's convolution gives."""
    layer = nn.Conv2d(4, 8, kernel, stride, padding, dilation, groups, bias)
    layer = zeroed(nn.Sequential(layer))[0]
    x = torch.randn(batch, 4, 9, 8)
    with torch.inference_mode():
        close(sparse.torch_csr(layer)(x), layer(x))


@pytest.mark.parametrize("form", [sparse.torch_csr, sparse.scipy_csr])
@pytest.mark.parametrize("shape", [(1, 6), (5, 6), (2, 3, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_sparse_linear_layer_is_that_of_torch(form, shape, bias):
    """One vector, several, or tokens: both sparse forms give what torch's linear layer gives."""
    layer = zeroed(nn.Sequential(nn.Linear(6, 10, bias=bias)))[0]
    x = torch.randn(shape)
    with torch.inference_mode():
        close(form(layer)(x), layer(x))


def test_a_matrix_holds_what_is_not_zero_and_groups_on_its_diagonal():
    """The CSR matrix of a grouped weight is block-diagonal, with one value for each weight that is not zero."""
    weight = torch.tensor([[1.0, 0.0], [2.0, 3.0], [0.0, 4.0], [5.0, 0.0]])
    csr = sparse.matrix(weight.view(4, 2, 1, 1), groups=2)
    assert csr.values().tolist() == [1, 2, 3, 4, 5]
    assert torch.equal(csr.to_dense(), torch.block_diag(weight[:2], weight[2:]))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(3, 4, 2, padding="same"),
        timm.layers.StdConv2d(3, 4, 3),
        timm.layers.Conv2dSame(3, 4, 3, stride=2),
    ],
    ids=["reflected", "uneven", "standardized", "same"],
)
def test_what_is_no_plain_layer_stays_dense(layer):
    """Padding other than zeros on both sides, and classes that compute otherwise, get no sparse form."""
    assert sparse.torch_csr(layer) is None
    assert sparse.scipy_csr(layer) is None


def test_evenly_padded_same_is_done():
    """A kernel of odd size, padded to the same size, is computed sparsely."""
    layer = zeroed(nn.Sequential(nn.Conv2d(3, 4, (3, 5), padding="same", dilation=(2, 1))))[0]
    x = torch.randn(2, 3, 7, 9)
    with torch.inference_mode():
        close(sparse.torch_csr(layer)(x), layer(x))


@pytest.mark.parametrize(
    ("name", "unused"),
    [("test_convnext", set()), ("tiny_mixer", set()), ("tiny_tied", set()), ("tiny_beit", {"attn.qkv"})],
)
def test_networks_compute_the_same_with_sparse_layers(name, unused):
    """Depthwise, token-mixing and tied layers agree; a weight read past its layer stays dense and is not counted."""
    network = zeroed(timm.create_model(name, num_classes=7))
    images = torch.randn(2, 3, 32, 32)
    made, forms = sparse.swapped(network, sparse.torch_csr)
    with torch.inference_mode():
        close(made(images), network(images))
    assert {".".join(form.name.split(".")[-2:]) for form in forms if not form.used} == unused
    assert all("forward" not in vars(layer) for layer in network.modules())


def test_two_of_four_is_recognized():
    """The pattern is two zeros among each four neighbours of a row, of a matrix, and of nothing else."""
    assert sparse.is_two_of_four(torch.tensor([[1.0, 0, 0, 2, 0, 0, 0, 3]]))
    assert not sparse.is_two_of_four(torch.tensor([[0.0, 0, 1, 2, 3, 0, 0, 0, 1, 1, 1, 0]]))
    assert not sparse.is_two_of_four(torch.zeros(4, 6))
    assert not sparse.is_two_of_four(torch.zeros(4, 4, 1, 1))


# The control


def test_the_control_has_no_zero_and_the_same_weights_elsewhere(made):
    """What was not zero stays bit for bit, what was is small, the same every time, and the run's own stay."""
    subject = checked(made("test_resnet"), record_of(made("test_resnet")))
    first, again = control.filled(subject), control.filled(subject)
    for name in subject.state:
        before, after = subject.state[name], first.state[name]
        assert torch.equal(after, again.state[name])
        kept = before != 0 if name in subject.weights else torch.ones_like(before, dtype=torch.bool)
        assert torch.equal(after[kept], before[kept])
        if name in subject.weights:
            assert (after != 0).all()
            assert after[~kept].square().mean() < 0.02 * before.square().mean() + (before == 0).all()
    assert all(torch.equal(subject.network.state_dict()[name], subject.state[name]) for name in subject.state)


# Rounds


def test_functions_take_turns_and_the_last_call_of_a_turn_is_timed():
    """The next round begins with another function, and a time is what the clock says of one call after untimed ones."""
    calls, now = [], itertools.count()
    functions = {name: functools.partial(calls.append, name) for name in "abc"}
    times = timing.interleaved(functions, seconds=0, rounds=4, warmup=1, clock=lambda: float(next(now)))
    assert "".join(calls) == "abc" + "aabbcc" + "bbccaa" + "ccaabb" + "aabbcc"
    assert times == dict.fromkeys("abc", timing.Times(4, 1.0, 1.0, 1.0))


def test_short_calls_settle_longer():
    """A function that takes no time to speak of is called untimed as often as caches need."""
    calls = []
    timing.interleaved({"a": lambda: calls.append(1)}, seconds=0, rounds=2, warmup=0, clock=lambda: 0.0)
    assert len(calls) == 2 * (timing.SETTLING + 1)


def test_a_spent_budget_still_has_the_fewest_rounds():
    """However short the budget, there are enough rounds for a median."""
    assert timing.interleaved({"a": int}, seconds=1e-9)["a"].rounds == timing.FEWEST


@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=30))
def test_a_summary_is_ordered(values):
    """The median lies between the tenth and ninetieth percentile, all within what was seen."""
    found = timing.summary(values)
    ends = [min(values), found.p10, found.median, found.p90, max(values)]
    assert all(low <= high * (1 + 1e-9) for low, high in itertools.pairwise(ends))
    assert found.rounds == len(values)


def clocked(engine, *ends):
    """An engine of these p10, median and p90."""
    p10, median, p90 = ends
    return document.Clocked(engine, 1, timing.Times(9, median, p10, p90), None, 0.0, 1e-4)


@pytest.mark.parametrize(
    ("times", "zeros", "said"),
    [
        ((1, 2, 3), "pay", "zeros pay: the fastest engine that leaves them out, torch-csr, is 2.50 times as fast"),
        (
            (7, 8, 9),
            "do not pay",
            "zeros do not pay: the fastest engine that leaves them out, torch-csr, is 0.62 times",
        ),
        ((3, 4, 5), "open", "open: the times of torch-csr, which leaves zeros out, and onnxruntime, which does not"),
    ],
)
def test_the_verdict_follows_the_times(made, times, zeros, said):
    """Zeros pay where the middle of the times lies wholly below the fastest dense engine's, which need not be torch."""
    subject = checked(made("test_resnet"), record_of(made("test_resnet")))
    layers = [layer["name"] for layer in subject.record["sparsity"]["layers"]]
    about = {"torch": [], "torch-csr": layers, "scipy-csr": layers[-1:], "onnxruntime": []}
    rows = [clocked("torch", 9, 10, 11), clocked("torch-csr", *times), clocked("onnxruntime", 4, 5, 6)]
    rows.append(clocked("scipy-csr", 0.1, 0.1, 0.1))  # one layer of many: its time says nothing of zeros
    about = {name: document.Available(name, sparsely) for name, sparsely in about.items()}
    (verdict,) = document.made(subject, Asked(batches=(1,)), {}, about, rows)["verdicts"]
    assert (verdict["zeros"], verdict["sparse"], verdict["dense"]) == (zeros, "torch-csr", "onnxruntime")
    assert showing.sentence(verdict).startswith(f"batch 1: {said}")


# The document


def test_the_document_is_complete(found, made):
    """Every engine is measured at every batch or says why not, with threads, machine and versions."""
    record = record_of(made("test_resnet"))
    assert list(found["engines"]) == list(ENGINES)
    measured = [name for name, engine in found["engines"].items() if engine["available"]]
    assert measured == ["torch", "torch-csr", "scipy-csr", "onnxruntime"]
    assert [(row["engine"], row["batch"]) for row in found["timings"]] == [(n, b) for b in (1, 3) for n in measured]
    assert "two weights of every four" in found["engines"]["torch-2:4"]["note"]
    assert found["hardware"]["threads"] == found["settings"]["threads"] == 1
    assert {"processor", "cores", "load"} <= found["hardware"].keys()
    assert all(found["software"][name] for name in ("python", "torch", "numpy", "scipy", "onnxruntime"))
    assert found["run"]["weights_sha256"] == record["weights_sha256"]
    assert found["run"]["nonzero"] == record["sparsity"]["nonzero"]
    assert [verdict["batch"] for verdict in found["verdicts"]] == [1, 3]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_numbers_follow_from_each_other(found):
    """Ratios are those of the medians, images per second their inverse, and logits lie within what is allowed."""
    dense = {row["batch"]: row["median_seconds"] for row in found["timings"] if row["engine"] == "torch"}
    for row in found["timings"]:
        assert row["rounds"] == 2
        assert row["p10_seconds"] <= row["median_seconds"] <= row["p90_seconds"]
        assert row["speedup"] == pytest.approx(dense[row["batch"]] / row["median_seconds"])
        assert row["images_per_second"] == pytest.approx(row["batch"] / row["median_seconds"])
        assert row["logits_apart"] <= row["logits_tolerance"]
        assert (row["gain_from_zeros"] is None) == (row["engine"] in ("torch-csr", "scipy-csr"))
    assert {row["speedup"] for row in found["timings"] if row["engine"] == "torch"} == {1.0}


def test_what_is_computed_sparsely_is_named(found, made):
    """CSR of torch has every layer, that of scipy the linear one, with its share of the multiply-adds."""
    layers = record_of(made("test_resnet"))["sparsity"]["layers"]
    about = found["engines"]
    assert about["torch-csr"]["sparse_layers"] == [layer["name"] for layer in layers]
    assert about["torch-csr"]["sparse_share"] == 1
    assert about["scipy-csr"]["sparse_layers"] == ["fc"]
    macs = [layer["n"] * layer["positions"] for layer in layers]
    assert about["scipy-csr"]["sparse_share"] == pytest.approx(macs[-1] / sum(macs))
    assert about["torch"]["sparse_share"] == about["onnxruntime"]["sparse_share"] == 0


def test_the_table_shows_every_row_and_the_verdicts(found):
    """As text there is a line for each row, a note for each engine, the run, the threads, and a sentence per batch."""
    lines = showing.text(found).splitlines()
    table = [line.split()[:2] for line in lines]
    assert all([row["engine"], str(row["batch"])] in table for row in found["timings"])
    assert all(any(line.startswith(f"{name}: ") for line in lines) for name in ENGINES)
    assert "digits / test_resnet / prune" in lines[0]
    assert "; 1 thread; " in lines[1]
    assert [line.partition(":")[0] for line in lines[-2:]] == ["batch 1", "batch 3"]


def test_a_network_of_linear_layers_agrees_in_both_csr_forms(made):
    """A pruned transformer gives dense torch's logits in either form, most of its multiply-adds without zeros."""
    asked = Asked(engines=("torch-csr", "scipy-csr"), batches=(1, 2), rounds=1, warmup=0)
    about = measuring.measure(made("test_vit"), asked)["engines"]
    assert list(about) == ["torch", "torch-csr", "scipy-csr"]
    assert 0.5 < about["scipy-csr"]["sparse_share"] < about["torch-csr"]["sparse_share"] == 1


def test_a_supermask_run_is_measured(tmp_path):
    """Frozen weights under a mask are a network like any other."""
    run(tmp_path, "random", 0.5, track="supermask")
    found = measuring.measure(run_folder(tmp_path), Asked(("torch-csr",), (1,), rounds=1))
    assert found["run"]["track"] == "supermask"
    assert len(found["timings"]) == 2


# The command


def test_it_prints_json_and_writes_nothing_but_out(one, tmp_path, capsys):
    """The run's folder stays as it is; `--out` gets what `--json` prints, and is never overwritten."""
    before = {path.name: path.stat().st_mtime_ns for path in one.iterdir()}
    out = tmp_path / "new" / "times.json"
    command = ["latency", str(one), *QUICK, "--engine", "torch-csr", "--out", str(out), "--json"]
    assert invoke(command) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text())
    assert json.loads(out.read_text())["settings"]["batches"] == [1, 3]
    assert invoke(command) == 2
    assert "is already there" in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in one.iterdir()} == before


def test_threads_are_set_for_the_measurement_alone(one):
    """What was asked for is in the document, and torch has its own number again afterwards."""
    before = torch.get_num_threads()
    found = measuring.measure(one / store.RUN, Asked(("torch",), (1,), threads=before + 1, rounds=1))
    assert found["hardware"]["threads"] == before + 1
    assert torch.get_num_threads() == before


def test_other_logits_are_an_error_and_no_number(one, capsys, monkeypatch):
    """An engine that does not compute the run's network is named with how far it is off, and nothing is timed."""

    def wrong(bench):
        return engines.Engine("scipy-csr", lambda images: bench.subject.network(images) + 0.5, "wrong")

    monkeypatch.setitem(engines._MAKERS, "scipy-csr", wrong)
    assert invoke(["latency", str(one), *QUICK, "--engine", "scipy-csr"]) == 3
    said = capsys.readouterr()
    assert "engine scipy-csr gives logits" in said.err
    assert not said.out


def test_a_missing_package_is_named(one, capsys, monkeypatch):
    """Asked for by name ONNX Runtime is refused with the extra that has it; else its row says so."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert invoke(["latency", str(one), *QUICK, "--engine", "onnxruntime"]) == 2
    assert "pip install 'pruneboard[onnx]'" in capsys.readouterr().err
    assert invoke(["latency", str(one), *QUICK]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("onnxruntime")]
    assert line.startswith("onnxruntime: not measured: ")
    assert "pip install 'pruneboard[onnx]'" in line


@pytest.mark.parametrize(
    ("spoil", "arguments", "code", "message"),
    [
        (lambda folder: (folder / store.RUN).unlink(), [], 4, "no record at"),
        (lambda folder: edit(folder, status="failed"), [], 2, "only a finished run is measured"),
        (lambda folder: (folder / store.WEIGHTS).unlink(), [], 2, "a record alone cannot be measured"),
        (lambda folder: edit(folder, seed=7), [], 3, "is disputed and is not measured"),
        (None, ["--engine", "torch-crs"], 2, "did you mean torch-csr"),
        (None, ["--engine", "torch-2:4"], 2, "two weights of every four"),
        (None, ["--batch", "0"], 2, "batch"),
        (None, ["--device", "tpu"], 2, "device"),
        pytest.param(
            *(None, ["--device", "cuda"], 2, "--device cpu"),
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device"),
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(one, capsys, spoil, arguments, code, message):
    """Unfinished, disputed, without weights, or asked for what is not there: one error that names it."""
    if spoil:
        spoil(one)
    assert invoke(["latency", str(one), *QUICK, *arguments]) == code
    said = capsys.readouterr()
    assert message in said.err
    assert not said.out


def test_an_engine_that_fails_is_named(one, capsys, monkeypatch):
    """Where memory is short, the error says which engine and batch."""

    def failing(bench):
        def call(images):
            raise RuntimeError("not enough memory")

        return engines.Engine("torch-csr", call, "failing")

    monkeypatch.setitem(engines._MAKERS, "torch-csr", failing)
    assert invoke(["latency", str(one), *QUICK, "--engine", "torch-csr"]) == 2
    assert "engine torch-csr fails at batch 1 (RuntimeError: not enough memory)" in capsys.readouterr().err
