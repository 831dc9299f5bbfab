"""Weights that several modules share: one gate for all of them, counted once, folded under every name."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import networks
import runs
from pruneboard.api import Gate, Mask, MaskPruner, Pruner
from pruneboard.errors import AuditError, UsageError
from pruneboard.models import gated_layers, left_out, prunable_layers
from pruneboard.models.cost import positions
from pruneboard.scores import budget, set_masks
from pruneboard.training.gates import DrawKey, attach, cached_weights, fold, gate_tensors, gated_weights, replace_gates
from pruneboard.training.scoring import ScoringView, dense_gradients


class Noise(Gate):
    """Adds keyed noise while training."""

    def forward(self, weight: Tensor) -> Tensor:
        if not self.training:
            return weight
        return weight + torch.rand(weight.shape, generator=self.draw())


@dataclass(frozen=True, kw_only=True)
class Noisy(Pruner[Noise]):
    def gate(self, weight: Tensor) -> Noise:
        return Noise()


@dataclass(frozen=True, kw_only=True)
class Masked(MaskPruner):
    """Masks that keep everything until a test sets them."""


def tied() -> networks.Tied:
    """Return a network whose `first` and `second` share a weight, with the same weights at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return networks.Tied()


def images() -> Tensor:
    """Return a batch of images, the same at every call."""
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def gated(pruner):
    """Return the network with gates, and its layers."""
    net = tied()
    return net, attach(pruner, gated_layers(net), DrawKey(0), hits_target=True)


def masked():
    """Return the network with masks that keep every third weight, and its layers."""
    net, layers = gated(Masked(sparsity=0.5))
    set_masks(layers, [(torch.arange(x.dense.numel()) % 3 == 0).reshape(x.dense.shape) for x in layers])
    return net, layers


def test_a_shared_weight_is_one_layer_under_its_first_name():
    """Both modules are found, and the weight counts once, as a layer and in the budget."""
    net = tied()
    assert [name for name, _ in prunable_layers(net)] == ["stem", "first", "head"]
    assert [name for name, _ in gated_layers(net)] == ["stem", "first", "second", "head"]
    net, layers = gated(Masked(sparsity=0.5))
    n = 24 * 3 * 16 + 24 * 24 + 10 * 24
    assert [(layer.index, layer.name) for layer in layers] == [(0, "stem"), (1, "first"), (2, "head")]
    assert budget(layers) == n - round(0.5 * n)
    assert list(gate_tensors(layers)) == ["stem/keep", "first/keep", "head/keep"]


def test_all_holders_have_the_same_gate():
    """Both modules read the masked weight, and there is one dense parameter to train."""
    net, layers = masked()
    assert net.first.parametrizations.weight[0] is net.second.parametrizations.weight[0] is layers[1].gate
    assert torch.equal(net.first.weight, net.second.weight)
    assert int((net.second.weight != 0).sum()) == 24 * 24 // 3
    assert sum(p is layers[1].dense for p in net.parameters()) == 1


@pytest.mark.parametrize("cached", [True, False])
def test_a_drawing_gate_gives_all_holders_the_same_draw(cached):
    """In a forward pass all holders read the same numbers, with cached weights and without."""
    net, _ = gated(Noisy(sparsity=0.5))
    plain = tied().first.weight
    with cached_weights(gated_weights(net)) if cached else nullcontext():
        assert torch.equal(net.first.weight, net.second.weight)
        assert not torch.equal(net.first.weight, plain)


def test_the_folded_network_computes_what_the_gated_one_does():
    """The folded weight is there under both names, loads strictly into the tied network, and gives the same bits."""
    net, layers = masked()
    state, plain = fold(net, layers), tied()
    assert list(state) == list(plain.state_dict())
    assert torch.equal(state["first.weight"], state["second.weight"])
    plain.load_state_dict(state, strict=True)
    assert plain.first.weight is plain.second.weight
    assert torch.equal(plain.eval()(images()), net.eval()(images()))
    assert int((plain.first.weight != 0).sum()) == 24 * 24 // 3


def test_both_uses_train_the_one_weight():
    """With an open gate, the gradient of the dense weight is that of the tied network without gates."""
    net, layers = gated(Masked(sparsity=0.5))
    plain = tied()
    for model in (net, plain):
        model(images()).square().sum().backward()
    torch.testing.assert_close(layers[1].dense.grad, plain.first.weight.grad)


def test_dense_gradients_add_up_over_the_uses():
    """A `DenseGradientPruner` gets the gradient of the shared effective weight, summed over all its uses."""
    net, layers = masked()
    plain = tied()
    plain.load_state_dict(fold(net, layers))
    with dense_gradients(layers, wanted=True) as gradients, cached_weights(gated_weights(net)):
        net(images()).square().sum().backward()
    plain(images()).square().sum().backward()
    torch.testing.assert_close(gradients[1], plain.first.weight.grad)


def test_a_view_replaces_a_shared_weight_everywhere():
    """The logits are those of a network in which the shared weight is replaced in both places."""
    net, layers = gated(Masked(sparsity=0.5))
    plain = tied()
    weights = [2 * layer.dense.detach() for layer in layers]
    with torch.no_grad():
        for name, weight in zip(("stem", "first", "head"), weights, strict=True):
            plain.get_submodule(name).weight.copy_(weight)
        found = ScoringView(net, layers, 16, 0.0).logits(images(), weights, training=False, rest=torch.abs)
        for name, parameter in plain.named_parameters():
            if name not in {"stem.weight", "first.weight", "head.weight"}:
                parameter.abs_()
        torch.testing.assert_close(found, plain.eval()(images()))


def test_replacing_gates_replaces_them_everywhere():
    """After `replace_gates`, both modules have the new mask."""
    net, layers = gated(Noisy(sparsity=0.5))
    none = [torch.zeros_like(layer.dense, dtype=torch.bool) for layer in layers]
    replaced = replace_gates(net, layers, none)
    assert not net.first.weight.any()
    assert not net.second.weight.any()
    assert isinstance(net.second.parametrizations.weight[0], Mask)
    assert not any(fold(net, replaced)[f"{name}.weight"].any() for name in ("stem", "first", "second", "head"))


def test_multiply_adds_count_every_use():
    """The positions of a shared weight are those of both modules."""
    assert positions(tied(), 16) == {"stem": 16, "first": 32, "head": 1}


def test_a_use_without_the_gate_is_an_error():
    """If only one holder had the gate, folding would raise instead of writing two different weights."""
    net = tied()
    layers = attach(Masked(sparsity=0.5), prunable_layers(net), DrawKey(0), hits_target=True)
    with pytest.raises(AuditError, match=r"second\.weight is the weight of layer first, used without the gate"):
        fold(net, layers)


def test_one_module_under_two_names_is_folded_under_both():
    """A module that is used twice has one gate, and all keys of the plain network."""

    def twice() -> nn.Module:
        layer = nn.Linear(4, 4)
        return nn.Sequential(layer, nn.ReLU(), layer)

    net = twice()
    layers = attach(Masked(sparsity=0.5), gated_layers(net), DrawKey(0), hits_target=True)
    set_masks(layers, [torch.eye(4)])
    state, plain = fold(net, layers), twice()
    assert [layer.name for layer in layers] == ["0"]
    assert list(state) == list(plain.state_dict())
    plain.load_state_dict(state)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(plain(x), net(x))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("tiny_tied_to_embedding", r"weight of its layer head is also classes\.weight \(Embedding\)"),
        ("tiny_tied_to_attribute", r"weight of its layer head is also prototypes \(TiedToAttribute\)"),
    ],
)
def test_sharing_with_anything_else_is_refused_by_name(tmp_path, model, message):
    """A weight that is also read in another way than through its layer is refused before the run starts."""
    with pytest.raises(UsageError, match=message):
        runs.run(tmp_path / "results", model=model)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("method", "track", "zero"), [("magnitude", "prune", 0), ("probmask", "prune", 2), ("edge-popup", "supermask", 1)]
)
def test_a_tied_network_runs_from_end_to_end(tmp_path, method, track, zero):
    """The record counts the shared weight once, and exactly; the file has it under both names."""
    record = runs.run(tmp_path, method, model="tiny_tied", track=track, zero=zero)
    state = load_file(runs.folder(tmp_path) / "model.safetensors")
    n = record["sparsity"]["prunable"]
    assert n == 24 * 3 * 16 + 24 * 24 + 10 * 24
    assert record["sparsity"]["nonzero"] == n - round(0.9 * n)
    assert torch.equal(state["first.weight"], state["second.weight"])
    assert sum(int((state[f"{name}.weight"] != 0).sum()) for name in ("stem", "first", "head")) == n - round(0.9 * n)
    assert record["sparsity"]["left_out"] == {"mix.weight": 72} == left_out(tied())
