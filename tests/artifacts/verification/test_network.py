"""The network of a record is rebuilt, and its costs and frozen weights are compared."""

from __future__ import annotations

import pytest
import torch

import verify_cases as cases
from pruneboard.artifacts.verification import network
from pruneboard.errors import UsageError
from verify_cases import copied, edit, failed, found


def test_the_plan_is_that_of_the_run(trained):
    """The network planned from a record has the record's layers and arguments."""
    record = cases.record_of(trained)
    plan = network.plan_of(record)
    assert plan.load_as == record["model"]["load_as"]
    assert dict(plan.create_args) == record["model"]["create_args"]


@pytest.mark.parametrize(
    ("path", "value"),
    [("data.image_size", 641), ("data.image_size", True), ("data.classes", 0), ("model.stem", "large")],
)
def test_an_impossible_network_is_refused(trained, path, value):
    """A size outside the allowed range, or an unknown stem, is refused before anything is built."""
    record = cases.record_of(trained)
    block, name = path.split(".")
    record[block][name] = value
    with pytest.raises(UsageError, match=f"{path} is"):
        network.plan_of(record)


def test_the_number_of_alive_weights_is_recomputed(one):
    """Another number of weights on a path from input to output, consistent in every sum, is found in the network."""
    record = cases.record_of(one)
    sparsity = record["sparsity"]
    assert 0 < sparsity["alive"] < sparsity["nonzero"]
    sparsity["layers"][5]["alive"] -= 1
    alive = sparsity["alive"] - 1
    edit(one, sparsity__layers=sparsity["layers"], sparsity__alive=alive)
    edit(one, sparsity__effective=(sparsity["prunable"] - alive) / sparsity["prunable"])
    assert failed(one) == {"weights.network"}
    assert "sparsity.layers.5.alive is" in cases.note(found(one), "weights.network")


@pytest.mark.parametrize("path", ["cost__bytes__compressed", "cost__macs_attention", "cost__bytes__csr"])
def test_an_edited_cost_is_caught(one, path):
    """Sizes and multiply-adds that the record alone does not determine must be those of its network and weights."""
    edit(one, **{path: 1})
    assert failed(one) == {"weights.network"}
    assert path.replace("__", ".") in cases.note(found(one), "weights.network")


def test_the_compressed_size_has_a_tolerance(one):
    """The compressed size may differ by a few percent, because builds of zlib differ."""
    edit(one, cost__bytes__compressed=round(1.02 * cases.record_of(one)["cost"]["bytes"]["compressed"]))
    assert failed(one) == set()


def test_weights_of_another_network_are_caught(one):
    """A tensor that the model does not have is found, even under a matching hash."""
    cases.set_weights(one, lambda state: state.update(extra=torch.ones(3)))
    cases.hash_weights(one)
    assert failed(one) == {"weights.network"}


def test_edited_frozen_weights_are_caught(frozen, tmp_path):
    """A supermask run with weights other than the initial ones is found, whatever their hash and scores."""
    one = copied(frozen, tmp_path / "run")
    cases.set_weights(one, cases.flip)
    cases.hash_weights(one)
    assert "weights.frozen" in failed(one)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64])
def test_weights_of_another_type_are_disputed(one, dtype):
    """Numbers that loading would convert are not those of the network, although their hash is in the record."""
    cases.set_weights(one, lambda state: state.update({name: value.to(dtype) for name, value in state.items()}))
    cases.hash_weights(one)
    assert failed(one) == {"weights.network"}
    assert f"has the type {dtype} in the file, and torch.float32" in cases.note(found(one), "weights.network")


def test_a_file_without_counters_of_batches_is_no_error(tmp_path, tiny_run):
    """A file of a network with batch normalization may lack its counters, which loading creates and nothing uses."""
    one = cases.copied(tiny_run(), tmp_path / "one")

    removed = []

    def without_counters(state):
        removed.extend(name for name in state if name.endswith("num_batches_tracked"))
        for name in removed:
            del state[name]

    cases.set_weights(one, without_counters)
    cases.hash_weights(one)
    assert removed
    assert failed(one) == set()
