"""Initial weights (random, from a file, pretrained), and the hash of weights."""

from __future__ import annotations

import functools
import math
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from model_cases import plan
from pruneboard.errors import UsageError
from pruneboard.models import build_model, check_init, state_sha256


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**40))
def test_initial_weights_are_a_function_of_the_seed(seed):
    """Equal seeds give equal weights whatever was drawn before; the global generator does not change."""
    made = plan("test_vit")
    before = torch.get_rng_state()
    first = state_sha256(build_model(made, seed=seed).state_dict())
    other = state_sha256(build_model(made, seed=seed + 1).state_dict())
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(1)
    assert state_sha256(build_model(made, seed=seed).state_dict()) == first != other


def test_a_file_replaces_all_weights(tmp_path):
    """Every weight comes from the file, so the seed has no influence."""
    made = plan("test_resnet")
    source = build_model(made, seed=1).state_dict()
    save_file(source, tmp_path / "w.safetensors")
    loaded = build_model(made, init=str(tmp_path / "w.safetensors"), seed=2).state_dict()
    assert state_sha256(loaded) == state_sha256(source)


def test_a_file_that_does_not_fit_is_refused(tmp_path):
    """Missing, surplus and differently shaped tensors are counted and named; no classifier is dropped."""
    file = tmp_path / "w.safetensors"
    state = build_model(plan("test_resnet", classes=5), seed=1).state_dict()
    save_file(state, file)
    with pytest.raises(UsageError, match=r"2 tensors of another shape: fc.weight \[5, 96\] in the file, \[10, 96\]"):
        build_model(plan("test_resnet"), init=str(file), seed=0)
    del state["bn1.weight"]
    save_file({**state, "extra.weight": torch.zeros(1)}, file)
    expected = r"1 tensor missing in the file: bn1.weight; 1 tensor not in the model: extra.weight$"
    with pytest.raises(UsageError, match=expected):
        build_model(plan("test_resnet", classes=5), init=str(file), seed=0)
    save_file({"x": torch.zeros(1)}, file)
    with pytest.raises(UsageError, match=r"\d+ tensors missing in the file: .*, .*, .* and \d+ more; 1 tensor not in"):
        build_model(plan("test_resnet"), init=str(file), seed=0)


def save_changed(path, change, **options):
    """Save the weights of a small network, with changes, and return the path as text."""
    state = build_model(plan("test_vit", **options), seed=1).state_dict()
    save_file({**state, **change(state)}, path)
    return str(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: {"norm.weight": s["norm.weight"] * math.nan},
            r"1 tensor with NaN or infinite values: norm.weight \(64",
        ),
        (lambda s: {n: t + math.inf for n, t in s.items()}, r"\d+ tensors with .*: .*, .*, .* and \d+ more; use other"),
        (lambda s: {"norm.bias": torch.full((64,), 1e300, dtype=torch.float64)}, r"norm.bias \(64 of 64 values\)"),
        (
            lambda s: {"norm.bias": torch.zeros(64, dtype=torch.int8)},
            r"of another type: norm.bias torch.int8 in the file",
        ),
        (
            lambda s: {"norm.bias": torch.zeros(64, dtype=torch.complex64)},
            r"of another type: norm.bias torch.complex64",
        ),
    ],
)
def test_a_file_with_other_values_than_finite_numbers_is_refused(tmp_path, change, message):
    """NaN, infinite values, also those too large for float32, whole and complex numbers are counted and named."""
    file = save_changed(tmp_path / "w.safetensors", change)
    for attempt in (check_init, functools.partial(build_model, seed=0)):
        with pytest.raises(UsageError, match=message):
            attempt(plan("test_vit"), init=file)


@pytest.mark.parametrize(
    ("saved", "found", "remedy"),
    [
        ({"stem": "stock"}, {"stem": "small"}, "use --stem stock"),
        ({"stem": "small"}, {"stem": "stock"}, "use --stem small"),
        (
            {"classes": 7},
            {},
            "replace its classifier by one for 10 classes and save it again, or use --init pretrained",
        ),
        (
            {"stem": "stock", "classes": 7},
            {"stem": "small"},
            "use --stem stock, and replace its classifier by one for 10 classes and save it again",
        ),
        ({"size": 64, "stem": "small"}, {}, "choose the --model, --stem and --image-size that the file was saved with"),
    ],
)
def test_what_would_make_a_file_fit_is_said(tmp_path, saved, found, remedy):
    """The message ends with the flag, or the change of the classifier, with which the file would fit."""
    file = save_changed(tmp_path / "w.safetensors", lambda state: {}, **saved)
    stems = {f"--stem {stem}": plan("test_vit", stem=stem) for stem in ("stock", "small")}
    with pytest.raises(UsageError) as caught:
        check_init(plan("test_vit", **found), file, lambda: stems)
    assert f": {remedy}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_is_checked_again_once_it_has_changed(tmp_path):
    """A file that fits is read once; if it is written anew, it is checked anew."""
    file = tmp_path / "w.safetensors"
    save_changed(file, lambda state: {})
    check_init(plan("test_vit"), str(file))
    check_init(plan("test_vit"), str(file))
    save_file({"x": torch.zeros(1)}, file)
    with pytest.raises(UsageError, match="do not fit"):
        check_init(plan("test_vit"), str(file))


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    """A missing file, a pipe, a damaged one and an unknown `init` each give a one-line error."""
    made = plan("test_resnet")
    with pytest.raises(UsageError, match=r"cannot read the initial weights .*none\.safetensors"):
        build_model(made, init=str(tmp_path / "none.safetensors"), seed=0)
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(UsageError, match=r"pipe\.safetensors: it is not a regular file"):
        build_model(made, init=str(tmp_path / "pipe.safetensors"), seed=0)
    (tmp_path / "bad.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(UsageError, match="is not a safetensors file"):
        build_model(made, init=str(tmp_path / "bad.safetensors"), seed=0)
    for attempt in (check_init, functools.partial(build_model, seed=0)):
        with pytest.raises(UsageError, match=r"init is random, pretrained or the path of a \.safetensors file; found"):
            attempt(made, init="x.pt")


@pytest.fixture
def offline_hub(tmp_path, monkeypatch):
    """An empty cache of the Hugging Face hub, without a network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_pretrained_without_a_network_gives_a_one_line_error(offline_hub):
    """Weights that cannot be downloaded give one line that names the model, without minutes of retries."""
    with pytest.raises(UsageError, match="cannot fetch the pretrained weights of test_resnet") as caught:
        build_model(plan("test_resnet"), init="pretrained", seed=0)
    assert "\n" not in str(caught.value)


def test_missing_pretrained_weights_are_refused():
    """The message says that no pretrained weights exist for the network."""
    with pytest.raises(UsageError, match="no pretrained weights exist for resnet20_cifar"):
        build_model(plan("resnet20_cifar"), init="pretrained", seed=0)
    with pytest.raises(UsageError, match="no pretrained weights exist for resnet20_cifar"):
        check_init(plan("resnet20_cifar"), "pretrained")


def publish(hub, weights):
    """Put these weights of test_resnet into the cache of the hub."""
    repository = hub / "models--timm--test_resnet.r160_in1k"
    (repository / "snapshots" / "0").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0")
    save_file(weights, repository / "snapshots" / "0" / "model.safetensors")


def test_pretrained_weights_that_do_not_fit_are_refused(offline_hub):
    """The tensors are named, and the flags that help, instead of advice about the network connection."""
    published = build_model(plan("test_resnet", classes=1000, stem="stock"), seed=9).state_dict()
    publish(offline_hub, published | {"bn1.weight": torch.ones(3), "conv1.weight": torch.ones(2, 3, 3, 3)})
    with pytest.raises(UsageError, match=r"of test_resnet do not fit the network \(.*bn1.weight.*\): use --stem stock"):
        build_model(plan("test_resnet", stem="small"), init="pretrained", seed=0)


def test_pretrained_weights_that_are_not_finite_are_refused(offline_hub):
    """NaN in the downloaded weights is named by tensor."""
    published = build_model(plan("test_resnet", classes=1000, stem="stock"), seed=9).state_dict()
    published["bn1.weight"][2] = math.nan
    publish(offline_hub, published)
    with pytest.raises(UsageError, match=r"pretrained weights of test_resnet cannot .*: bn1.weight \(1 of \d+ values"):
        build_model(plan("test_resnet"), init="pretrained", seed=0)


@pytest.mark.parametrize("stem", ["stock", "small"])
def test_pretrained_weights_are_loaded_by_timm(offline_hub, stem):
    """They fill all layers except the classifier, which is initialized from the seed for the board's classes."""
    published = build_model(plan("test_resnet", classes=1000, stem="stock"), seed=9).state_dict()
    publish(offline_hub, published)
    made = plan("test_resnet", stem=stem)
    model = build_model(made, init="pretrained", seed=0).state_dict()
    assert model["fc.weight"].shape == (10, 96)
    assert [n for n in model if not n.startswith("fc.") and not torch.equal(model[n], published[n])] == []
    assert state_sha256(build_model(made, init="pretrained", seed=0).state_dict()) == state_sha256(model)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_hash_depends_on_content_and_not_on_layout(data):
    """It depends on names, dtypes, shapes and values, and not on order or memory layout."""
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool]))
    values = torch.randint(0, 2, (2, 3, 4, 5), generator=torch.Generator().manual_seed(0)).to(dtype)
    state = {"a": values, "b": torch.tensor(1)}
    digest = state_sha256(state)
    assert digest == state_sha256({"b": torch.tensor(1), "a": values.to(memory_format=torch.channels_last)})
    index = data.draw(st.integers(0, values.numel() - 1))
    changed = values.clone()
    changed.view(-1)[index] = 1 - changed.view(-1)[index].to(torch.int64)
    for other in (
        {"a": changed, "b": torch.tensor(1)},
        {"a": values.reshape(3, 2, 4, 5), "b": torch.tensor(1)},
        {"a": values, "c": torch.tensor(1)},
        {"a": values.to(torch.float64), "b": torch.tensor(1)},
    ):
        assert state_sha256(other) != digest
