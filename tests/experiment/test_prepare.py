"""Resolving a spec: what is decided, and what is refused, before anything is written."""

from __future__ import annotations

import re

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

import runs
from pruneboard.api import Traits
from pruneboard.errors import PluginError, UsageError
from pruneboard.experiment import lifecycle
from pruneboard.experiment import prepare as prepare_module
from pruneboard.experiment.prepare import micro_batch, pick_device, prepare
from pruneboard.models import build_model
from runs import refusal, tiny


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "probmask", "init": "signed-constant"}, "belongs to the supermask track: add --track supermask"),
        (
            {"method": "probmask", "track": "supermask", "init": "pretrained"},
            "init on the supermask track must be one of",
        ),
        ({"method": "probmask", "ablation": "shuffled-mask"}, "belongs to the supermask track; this run is on track"),
        ({"method": "magnitude", "track": "supermask"}, "it runs on prune"),
        ({"method": "edge-popup", "track": "prune"}, "it runs on supermask"),
    ],
)
def test_options_of_the_other_track_are_refused(tmp_path, changes, message):
    """Initial weights, ablations and methods of one track are refused on the other, and nothing is written."""
    with pytest.raises(UsageError, match=message):
        runs.run(tmp_path, **changes)
    assert not any(tmp_path.iterdir())


def test_a_method_with_one_track_needs_no_track_option(tmp_path):
    """edge-popup runs on the supermask track without `--track`."""
    assert runs.run(tmp_path, "edge-popup", 0.5)["track"] == "supermask"


def initial_weights(place, **changes):
    """Save initial weights for a tiny run with these changes, and return the path as text."""
    file = place / "weights.safetensors"
    job, _ = prepare(tiny(place, **changes))
    save_file(build_model(job.plan, seed=0).state_dict(), file)
    return str(file)


@pytest.mark.parametrize("launch", [prepare, lifecycle.run])
def test_weights_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, launch):
    """The message says what differs and names the flag with which the file would fit; no record is written."""
    file = initial_weights(tmp_path, model="test_vit", stem="stock")
    results = tmp_path / "results"
    with pytest.raises(UsageError, match=r"2 tensors of another shape: pos_embed .* in the file.*: use --stem stock$"):
        launch(tiny(results, model="test_vit", stem="small", init=file))
    assert not results.exists()
    prepare(tiny(results, model="test_vit", stem="stock", init=file))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_before_anything_is_written(tmp_path, value):
    """The tensor is named, and there is no record of a failure, which would count against the method."""
    file = initial_weights(tmp_path)
    state = load_file(file)
    state["bn1.weight"][0] = value
    save_file(state, file)
    with pytest.raises(UsageError, match=r"1 tensor with NaN or infinite values: bn1.weight \(1 of \d+ values\)"):
        runs.run(tmp_path / "results", init=file)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("x.pt", r"init is random, pretrained or the path of a \.safetensors file; found 'x.pt'"),
        ("none.safetensors", r"cannot read the initial weights .*none\.safetensors: No such file"),
        ("pretrained", "cannot fetch the pretrained weights of test_resnet .*: check the network, or save them as a"),
    ],
)
def test_weights_that_are_not_there_are_refused_before_anything_is_written(tmp_path, monkeypatch, init, message):
    """An unknown rule, a missing file, and pretrained weights without a network are refused and leave no record."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(UsageError, match=message):
        runs.run(tmp_path / "results", init=init)
    assert not (tmp_path / "results").exists()


CONTROL = """
    from dataclasses import dataclass
    from pruneboard.api import MaskPruner, Traits

    @dataclass(frozen=True, kw_only=True)
    class Thing(MaskPruner):
        def traits(self, track):
            return Traits(harden_at=0.5, control="baseline")
"""

EARLY = """
    from dataclasses import dataclass
    from pruneboard.api import MaskPruner, Traits

    @dataclass(frozen=True, kw_only=True)
    class Thing(MaskPruner):
        tracks = frozenset({"supermask"})

        def traits(self, track):
            return Traits(harden_at=0.5)
"""


def test_fine_tuning_is_refused_on_the_supermask_track(tmp_path, site):
    """`harden_at` must be 1 there, or 0 for a mask that is not learned; else it is an error of the plugin."""
    site.add("early", EARLY)
    with pytest.raises(PluginError, match=r"declares harden_at=0.5 on the supermask track"):
        runs.run(tmp_path / "results", "thing", 0.5, track="supermask")


@pytest.mark.parametrize(
    ("traits", "message"),
    [
        ("None", "traits must return a pruneboard.api.Traits; found <class 'NoneType'>"),
        ("Traits(harden_at=float('nan'))", "declares harden_at=nan: it is a fraction in"),
        ("Traits(forward_passes=0)", "declares forward_passes=0: it is a whole number of 1 or more"),
        ("Traits(forward_passes=1.5)", "declares forward_passes=1.5: it is a whole number of 1 or more"),
        ("Traits(max_validations=float('inf'))", "declares max_validations=inf: it is a whole number of 0 or more"),
        ("Traits(hits_target='no')", "declares hits_target='no': it is True or False"),
    ],
)
def test_traits_out_of_range_are_refused(tmp_path, site, traits, message):
    """Traits that no record could hold are refused before the training, and the message names the trait."""
    site.add("wrong_traits", CONTROL.replace('Traits(harden_at=0.5, control="baseline")', traits))
    with pytest.raises(PluginError, match=re.escape(message)):
        prepare(tiny(tmp_path, "thing"))


def test_preparing_writes_nothing(tmp_path):
    """It returns the job, its folder and the images, and the results folder is still empty."""
    job, dataset = prepare(tiny(tmp_path))
    assert job.folder.is_relative_to(tmp_path)
    assert job.folder.name.startswith(f"magnitude-s0.9-seed0-{job.hash[:8]}")
    assert (len(dataset.train), len(dataset.validation)) == (130, 12)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("procs", "remedy"),
    [(2, "--norm-batch 16 allows it (a board of its own)"), (3, "choose a --batch-size that is a multiple of 3")],
)
def test_processes_may_not_change_how_images_are_normalized(tmp_path, procs, remedy):
    """With batch normalization, a batch that would be normalized in other groups is refused with the remedy."""
    message = refusal(tmp_path, procs=procs)
    assert message.startswith("32 images are normalized together and a step has 32, which")
    assert message.endswith(remedy)
    job, _ = prepare(tiny(tmp_path, procs=2, overrides={"norm_batch": 16}))
    assert micro_batch(job.recipe, job.plan, 2) == 16


def test_without_batch_normalization_processes_get_smaller_micro_batches(tmp_path):
    """The images of a step are divided among the processes, and the content hash does not change."""
    alone, spread = (prepare(tiny(tmp_path, model="test_vit", procs=procs))[0] for procs in (1, 4))
    assert [micro_batch(alone.recipe, alone.plan, world) for world in (1, 2, 4)] == [32, 16, 8]
    assert alone.hash == spread.hash


def test_a_split_batch_needs_equal_shares(tmp_path):
    """Passes that divide the images of a micro-batch unequally are refused."""
    options = {"samples": 2, "split_batch": True}
    message = refusal(tmp_path, "probmask", options=options, overrides={"batch_size": 25})
    assert message.startswith("method 'probmask' divides the 25 images of a micro-batch among 2 forward passes: choose")
    prepare(tiny(tmp_path, "probmask", options=options))


def test_only_built_in_methods_can_be_controls(tmp_path, site):
    """A third-party plugin that declares itself a baseline is an ordinary row."""
    site.add("baseline", CONTROL)
    assert prepare(tiny(tmp_path, "thing"))[0].traits == Traits(harden_at=0.5)
    assert prepare(tiny(tmp_path, "magnitude"))[0].traits.control == "baseline"


def test_event_files_need_tensorboard(tmp_path, monkeypatch):
    """Without the package, `--tensorboard` is refused, and the message says what to install."""
    monkeypatch.setattr(prepare_module.importlib.util, "find_spec", lambda name: None)
    assert refusal(tmp_path, tensorboard=True).endswith("pip install 'pruneboard[tensorboard]'")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_a_usage_error(tmp_path):
    """`--device cuda` is refused on a machine without one, and `auto` uses the CPU there."""
    assert refusal(tmp_path, device="cuda").endswith("use --device cpu or auto")
    assert pick_device(tiny(tmp_path, device="auto")) == torch.device("cpu")
