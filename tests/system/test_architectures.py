"""Every method on small networks of ten timm families: attach gates, train, prune, and fold."""

from __future__ import annotations

import copy
import dataclasses
from functools import cache
from tempfile import gettempdir

import pytest
import timm
import torch
from timm.layers import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import nn
from torch.nn.utils import parametrize

import networks  # noqa: F401 - registers the tiny ones
import runs
from pruneboard import models, registry
from pruneboard.api import MaskPruner
from pruneboard.data import train_batches
from pruneboard.experiment import start
from pruneboard.experiment.listeners import NullListener
from pruneboard.experiment.prepare import effective_traits, prepare
from pruneboard.models import gated_layers, left_out, prunable_layers, standardized
from pruneboard.models.cost import LayerCost
from pruneboard.spec import resolve_init
from pruneboard.training import loop
from pruneboard.training.gates import DrawKey, attach, fold, unsqueeze_scalars
from pruneboard.training.optim import freeze_gates

FAMILIES = {
    "resnet": "test_resnet",
    "vgg": "tiny_vgg",
    "mobilenetv3": "mobilenetv3_small_050",
    "efficientnet": "test_efficientnet",
    "convnext": "test_convnext",
    "vit": "test_vit",
    "swin": "tiny_swin",
    "mixer": "tiny_mixer",
    "nfnet": "test_nfnet",
    "beit": "tiny_beit",
}
"""Family -> its smallest network: timm's own if there is a small one, else timm's class with small sizes."""

FULL_SIZE = ("vgg19_cifar", "swin_tiny_patch4_window7_224", "gmixer_12_224", "eva02_tiny_patch14_224")
"""Networks of millions of weights, for the families whose small networks are from tests/support/networks.py."""

SPARSITY = 0.9


def cases():
    """Yield every built-in method on every track that it supports, with options for each way in which it ends."""
    for info in registry.installed():
        if info.distribution == "pruneboard":
            options = {"str": [{}, {"mode": "faithful"}], "synflow": [{"rounds": "10"}]}.get(info.name, [{}])
            for track in sorted(registry.load(info).tracks):
                yield from ((info, track, chosen) for chosen in options)


CASES = list(cases())
CASE_IDS = ["-".join([info.name, track, *options.values()]) for info, track, options in CASES]


@cache
def resolved(model):
    """Return the job of a run with four steps of eight images, and its data; resolving takes longer than training."""
    overrides = {"epochs": 1, "batch_size": 8}
    return prepare(runs.tiny(gettempdir(), "magnitude", SPARSITY, model=model, limit_train=36, overrides=overrides))


def started(model, info, track, options):
    """Return a job and its training, built as the harness builds it."""
    job, dataset = resolved(model)
    sparsity = None if info.name == "dense" else SPARSITY
    pruner = registry.build(info, sparsity, options)
    traits = dataclasses.asdict(effective_traits(pruner, track, info))
    spec = dataclasses.replace(job.spec, method=info.name, sparsity=sparsity, options=options, track=track)
    base_record = {"hash": job.hash, "method": {"traits": traits}}
    job = dataclasses.replace(
        job, spec=spec, info=info, track=track, init=resolve_init(None, track), base_record=base_record
    )
    return job, start.build_from_job(job, dataset, torch.device("cpu"), NullListener(), 0.0)


def fit(run):
    """Train the four steps like the loop, but harden with a constant validation accuracy."""
    total = run.budget.total if run.epochs else 0
    with torch.random.fork_rng(devices=[]):
        loop.prune_before_training(run)
        batches = train_batches(run.dataset, run.plan, epoch=0)
        for step in range(total + 1):
            if step == run.budget.harden_step:
                run.pruner.harden(run.layers, run.progress(step), lambda: 0.5)
                freeze_gates(run.engine.groups)
            if step < total:
                loop.train_step(run, step, next(batches))


def weights_of(model):
    """Return every weight of a convolution or linear layer once, found without pruneboard's code."""
    owners = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return list({id(m.weight): m.weight for m in owners}.values())


def images():
    """Return a batch of images, the same at every call."""
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@cache
def _built(model):
    return models.build_model(resolved(model)[0].plan, seed=1)


def built(model):
    """Return a copy of the plain network, as timm builds it for ten classes at 32 px."""
    return copy.deepcopy(_built(model))


@pytest.mark.parametrize("model", FAMILIES.values(), ids=FAMILIES)
def test_every_weight_of_convolutions_and_linear_layers_is_found(model):
    """The prunable layers have exactly those weights, each once, and no other weight of the network is left out."""
    net = built(model)
    found = [layer.weight for _, layer in prunable_layers(net)]
    assert [id(weight) for weight in found] == [id(weight) for weight in weights_of(net)]
    rest = {name: p for name, p in net.named_parameters() if not any(p is weight for weight in found)}
    assert not [name for name, p in rest.items() if p.ndim >= 2 and name.endswith("weight")]
    assert left_out(net) == {}


def one_case_each():
    """Yield every family with every case; by default one case per family is run, another for the next family."""
    for place, family in enumerate(FAMILIES):
        for index, (case, name) in enumerate(zip(CASES, CASE_IDS, strict=True)):
            marks = [pytest.mark.slow] if (place - index) % len(CASES) else []
            yield pytest.param(FAMILIES[family], *case, id=f"{family}-{name}", marks=marks)


@pytest.mark.parametrize(("model", "info", "track", "options"), one_case_each())
def test_the_folded_network_computes_what_the_gated_one_does(model, info, track, options):
    """All those weights and nothing else have gates; after folding, the count is exact and the logits are the same."""
    job, run = started(model, info, track, options)
    try:
        gated = run.engine.model
        plain = built(model)
        homes = {name for name, module in gated.named_modules() if parametrize.is_parametrized(module)}
        assert homes == {name for name, m in plain.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
        fit(run)
        plain.load_state_dict(fold(gated, run.layers), strict=True)
        n = sum(weight.numel() for weight in weights_of(plain))
        nonzero = sum(int((weight != 0).sum()) for weight in weights_of(plain))
        kept = sum(int(layer.gate.kept(layer.dense.detach()).sum()) for layer in run.layers)
        if job.base_record["method"]["traits"]["hits_target"]:
            assert kept == n - round((job.spec.sparsity or 0) * n)
        assert kept - 1e-4 * n <= nonzero <= kept
        with torch.no_grad():
            torch.testing.assert_close(plain.eval()(images()), gated.eval()(images()), rtol=0, atol=1e-5)
            for name in homes:  # a residual branch that starts near 0 hardly shows in the logits
                assert torch.equal(plain.get_submodule(name).weight, gated.get_submodule(name).weight), name
    finally:
        run.engine.close()


# Weights that are read without calling their layer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Masked(MaskPruner):
    """Masks that keep everything until a test sets them."""


@pytest.mark.parametrize("model", ["tiny_beit", "tiny_eva", "tiny_swin_v2"])
def test_a_gate_is_in_effect_where_only_the_weight_is_read(model):
    """Attention that passes `qkv.weight` to `linear` itself computes with the pruned weight, to the last bit."""
    plain = built(model).eval()
    with torch.no_grad():
        for parameter in plain.parameters():
            if not parameter.any():  # Swin V2 starts its residual branches at 0
                parameter.fill_(0.1)
    net = copy.deepcopy(plain)
    layers = attach(Masked(sparsity=0.5), gated_layers(net), DrawKey(0), hits_target=True)
    read = [layer for layer in layers if layer.name.endswith("qkv")]
    assert len(read) == sum(name.endswith("qkv") for name, _ in plain.named_modules()) >= 2
    with torch.no_grad():
        dense = net(images())
        assert torch.equal(dense, plain(images()))
        for layer in read:
            layer.gate.set(torch.arange(layer.dense.numel()).reshape(layer.dense.shape) % 2)
            plain.get_submodule(layer.name).weight.mul_(layer.gate.keep)
        assert not torch.equal(net(images()), dense)
        assert torch.equal(net(images()), plain(images()))


# Standardized kernels


@pytest.mark.parametrize("kind", [StdConv2d, StdConv2dSame, ScaledStdConv2d, ScaledStdConv2dSame])
def test_standardization_makes_a_pruned_position_non_zero(kind):
    """The layer subtracts each filter's mean, so a stored 0 multiplies as another number."""
    layer = kind(1, 1, 3)
    assert standardized(layer)
    assert not standardized(nn.Conv2d(1, 1, 3))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.0, 0, 0, 0, 1, 2, 0, 0, 3]).reshape(1, 1, 3, 3))
        impulse = torch.zeros(1, 1, 7, 7)
        impulse[..., 3, 3] = 1
        bias = 0 if layer.bias is None else layer.bias
        assert int(((layer(impulse) - bias).abs() > 1e-3).sum()) == 9


def test_no_multiply_adds_are_saved_in_a_standardized_convolution(tmp_path):
    """Zeros of an NFNet are counted as stored, but only its other layers save multiply-adds."""
    assert LayerCost("a", 100, 20, 15, 7, standardized=True).macs_remaining == 700
    record = runs.run(tmp_path, "magnitude", model="test_nfnet")
    net = timm.create_model("test_nfnet")
    whole = {name for name, m in net.named_modules() if isinstance(m, ScaledStdConv2d | ScaledStdConv2dSame)}
    layers = record["sparsity"]["layers"]
    assert 0 < len(whole & {layer["name"] for layer in layers}) < len(layers)
    spent = [(layer["n"] if layer["name"] in whole else layer["nonzero"]) * layer["positions"] for layer in layers]
    assert record["cost"]["macs_remaining"] == sum(spent)
    assert record["sparsity"]["measured"] == pytest.approx(0.9, abs=1e-5)


# 0-dimensional parameters


def test_0_dimensional_parameters_are_stored_with_a_dimension():
    """A network with such gains computes the same; folding restores all its keys and shapes."""
    plain = built("tiny_skipinit_nfnet")
    with torch.no_grad():
        for parameter in plain.parameters():
            if parameter.dim() == 0:
                parameter.fill_(0.5)
    net = copy.deepcopy(plain)
    unsqueeze_scalars(net)
    layers = attach(Masked(sparsity=0.5), gated_layers(net), DrawKey(0), hits_target=True)
    assert all(parameter.dim() for parameter in net.parameters())
    with torch.no_grad():
        assert torch.equal(net.eval()(images()), plain.eval()(images()))
    state, expected = fold(net, layers), plain.state_dict()
    assert state.keys() == expected.keys()
    assert all(
        state[name].shape == tensor.shape and torch.equal(state[name], tensor) for name, tensor in expected.items()
    )
    assert sum(not tensor.dim() for tensor in state.values()) >= 4


@pytest.mark.parametrize(
    ("method", "track", "zero"),
    [("magnitude", "prune", 0), ("random", "supermask", 0), pytest.param("gmp", "prune", 2, marks=pytest.mark.slow)],
)
def test_a_network_with_0_dimensional_parameters_runs_from_end_to_end(tmp_path, method, track, zero):
    """DeepSpeed cannot hold 0-dimensional parameters; the run works all the same, at every stage."""
    record = runs.run(tmp_path, method, model="tiny_skipinit_nfnet", track=track, zero=zero, sparsity=0.9)
    n = record["sparsity"]["prunable"]
    assert record["sparsity"]["kept"] == n - round(0.9 * n)


# Weights outside the scope


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("sequencer2d_s", nn.LSTM),
        ("lowformer_b0", nn.ConvTranspose2d),
        ("lambda_resnet26t", nn.Conv3d),
        ("coat_tiny", nn.Conv1d),
        ("efficientnet_cc_b0_4e", timm.layers.CondConv2d),
    ],
)
def test_weights_outside_the_scope_are_named(model, kind):
    """Weights of layers other than Conv2d and Linear are listed with their sizes, and are not prunable."""
    with torch.device("meta"):
        net = timm.create_model(model, num_classes=10)
    inside = {id(layer.weight) for _, layer in prunable_layers(net)}
    outside = {
        f"{name}.{own}": p.numel()
        for name, module in net.named_modules()
        for own, p in module.named_parameters(recurse=False)
        if isinstance(module, kind) and p.ndim >= 2
    }
    assert outside
    assert outside.items() <= left_out(net).items()
    assert not [p for name, p in net.named_parameters() if name in outside and id(p) in inside]


# Real runs


@pytest.mark.slow
@pytest.mark.parametrize(("info", "track", "options"), CASES, ids=CASE_IDS)
@pytest.mark.parametrize("model", [*FAMILIES.values(), "tiny_tied", "tiny_skipinit_nfnet"])
def test_twenty_steps_keep_the_budget(tmp_path, model, info, track, options):
    """Twenty real steps at .9 end `done`, with exactly the budget kept and in the file."""
    overrides = {"epochs": 5, "batch_size": 10}
    sparsity = None if info.name == "dense" else SPARSITY
    changes = {"model": model, "track": track, "options": options, "limit_train": 56, "overrides": overrides}
    record = runs.run(tmp_path, info.name, sparsity, **changes)
    assert record["status"] == "done"
    assert record["budget"]["steps"] == 20
    n = record["sparsity"]["prunable"]
    if record["method"]["traits"]["hits_target"]:
        assert record["sparsity"]["kept"] == n - round((sparsity or 0) * n)
    assert record["sparsity"]["kept_zero"] <= 1e-4 * record["sparsity"]["kept"]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "track"), [("probmask", "prune"), ("edge-popup", "supermask")])
@pytest.mark.parametrize("model", FULL_SIZE)
def test_full_size_networks_keep_the_budget(tmp_path, model, method, track):
    """A few steps on networks of millions of weights keep exactly the budget too."""
    changes = {"model": model, "track": track, "limit_train": 56, "overrides": {"epochs": 1, "batch_size": 10}}
    record = runs.run(tmp_path, method, SPARSITY, **changes)
    n = record["sparsity"]["prunable"]
    assert n > 10**6
    assert record["sparsity"]["kept"] == n - round(SPARSITY * n)
