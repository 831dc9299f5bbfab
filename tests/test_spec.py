"""Run specs and recipes: valid values, and errors of one line for all others."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from messages import message
from pruneboard.data import DATASETS
from pruneboard.errors import UnknownNameError
from pruneboard.spec import (
    AUGMENTATIONS,
    RECIPE_FIELDS,
    Recipe,
    RunSpec,
    check_sparsity,
    default_recipe,
    load_recipe,
    recipe_names,
)

MINIMAL = "epochs = 2\nbatch_size = 4\nlr = 0.1\nimage_size = 8\n"
FEW = settings(deadline=None, max_examples=60)


def recipe(**changes: Any) -> Recipe:
    """Return a small valid recipe with some fields changed."""
    return Recipe(**{"name": "x", "epochs": 2, "batch_size": 4, "lr": 0.1, "image_size": 8, **changes})


def spec(**changes: Any) -> RunSpec:
    """Return a valid spec with some fields changed."""
    return RunSpec(**{"method": "m", "model": "net", **changes})


@pytest.fixture
def own(tmp_path):
    """A function that writes a recipe file and returns its path."""

    def write(text: str | bytes) -> str:
        path = tmp_path / "own.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


# Sparsity


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.0, "sparsity must be a fraction of zeros in [0, 1); found 1.0"),
        (-0.1, "sparsity must be a fraction of zeros in [0, 1); found -0.1"),
        (90, "sparsity must be a fraction of zeros in [0, 1); found 90; for 90 % write 0.9"),
        ("97.5", "sparsity must be a fraction of zeros in [0, 1); found 97.5; for 97.5 % write 0.975"),
        ("abc", "sparsity must be a fraction of zeros, such as 0.9; found 'abc'"),
        ([0.9], "sparsity must be a fraction of zeros, such as 0.9; found [0.9]"),
        (math.nan, "sparsity must be a fraction of zeros in [0, 1); found nan"),
        (math.inf, "sparsity must be a fraction of zeros in [0, 1); found inf"),
        (100, "sparsity must be a fraction of zeros in [0, 1); found 100"),
    ],
)
def test_an_invalid_sparsity_is_an_error_with_the_reason(value, expected):
    """The message says what a sparsity must be and what was found, and for a percentage suggests the fraction."""
    assert message(lambda: check_sparsity(value)) == expected
    assert message(lambda: spec(sparsity=value)) == expected


def test_a_sparsity_beyond_floating_point_is_refused():
    """An integer too large for a float is an invalid sparsity like any other."""
    assert message(lambda: check_sparsity(10**400)).startswith("sparsity must be a fraction of zeros")


@given(st.floats(0, 1, exclude_max=True))
@FEW
def test_every_fraction_below_one_is_a_sparsity(value):
    """Numbers in [0, 1), and their text, are accepted unchanged."""
    assert check_sparsity(value) == check_sparsity(repr(value)) == value
    assert spec(sparsity=value).sparsity == value


def test_a_negative_zero_becomes_zero():
    """-0.0 and 0.0 are the same sparsity and must give the same content hash."""
    assert math.copysign(1, check_sparsity(-0.0)) == 1


def test_a_spec_holds_its_sparsity_as_a_number():
    """Text from the command line is a number in the spec."""
    assert spec(sparsity="0.9").sparsity == 0.9
    assert spec().sparsity is None


# Recipes


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_loads(name):
    """Each recipe is valid, named after its file, and the default of some data set or that of a paper."""
    found = load_recipe(name)
    assert found.name == name
    assert found.default_for or name == "probmask-cifar"
    assert set(found.default_for) <= set(DATASETS)


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_data_set_has_one_default_recipe(dataset):
    """Exactly one recipe claims each data set."""
    claiming = [name for name in recipe_names() if dataset in load_recipe(name).default_for]
    assert [default_recipe(dataset)] == claiming


def test_the_recipe_of_the_probmask_paper_is_as_long_as_its_runs():
    """On the 45,000 images of CIFAR that are not held out, it has the paper's 58,800 and 7,820 steps.

    The official code searches for 300 epochs at batch 256 and fine-tunes for 20 at batch 128, on 50,000 images.
    """
    search, fine_tuning = 300 * -(-50_000 // 256), 20 * -(-50_000 // 128)
    assert (search, fine_tuning) == (58_800, 7_820)
    recipe = load_recipe("probmask-cifar")
    steps = recipe.epochs * (45_000 // recipe.batch_size)
    assert steps == pytest.approx(search + fine_tuning, rel=0.001)
    assert round(0.882 * steps) == pytest.approx(search, rel=0.001)
    assert (recipe.batch_size, recipe.lr, recipe.momentum, recipe.clip, recipe.warmup_epochs) == (256, 0.1, 0.9, 3, 0)
    assert recipe.weight_decay == recipe.norm_weight_decay == 5e-4
    assert (recipe.nesterov, recipe.label_smoothing, recipe.augment, recipe.image_size) == (False, 0, "crop-flip", 32)


def test_a_data_set_without_recipe_is_an_error():
    """The message says to select a recipe."""
    assert "select one with --recipe" in message(lambda: default_recipe("mnist"))


def test_an_unknown_recipe_gives_the_similar_name():
    """The message suggests the similar recipe and says how to use a file."""
    text = message(lambda: load_recipe("digit"), UnknownNameError)
    assert text == "unknown recipe 'digit': did you mean digits? for a file of your own, give its path, such as x.toml"


def test_a_toml_file_is_a_recipe(own):
    """A path that ends in .toml is read, and the recipe is named after the file."""
    found = load_recipe(own(MINIMAL + 'default_for = ["digits"]\nwarmup_epochs = 1\n'))
    assert (found.name, found.epochs, found.default_for, found.warmup_epochs) == ("own", 2, ("digits",), 1.0)
    assert isinstance(found.warmup_epochs, float)


def test_overrides_replace_the_values_of_the_file():
    """An override, as a number or as its text, replaces the file's value, and nothing else changes."""
    plain, changed = load_recipe("digits"), load_recipe("digits", {"epochs": "3", "lr": 0.5, "nesterov": "true"})
    assert changed == dataclasses.replace(plain, epochs=3, lr=0.5, nesterov=True)


def test_every_recipe_field_can_be_overridden():
    """Every field has an option except the two that identify the recipe."""
    assert set(RECIPE_FIELDS) == {f.name for f in dataclasses.fields(Recipe)} - {"name", "default_for"}


def test_a_misspelled_key_gives_the_similar_one(own):
    """An unknown key is an error and is never ignored."""
    text = message(lambda: load_recipe(own(MINIMAL + "wieght_decay = 0.1\n")), UnknownNameError)
    assert "own" in text
    assert text.endswith("'wieght_decay': did you mean weight_decay or norm_weight_decay?")


def test_a_misspelled_override_gives_the_similar_one():
    """Overrides are checked like the keys of a file."""
    assert "did you mean epochs?" in message(lambda: load_recipe("digits", {"epoch": 1}), UnknownNameError)


def test_a_table_in_a_recipe_is_an_unknown_key(own):
    """A recipe has no tables."""
    assert "'optimizer'" in message(lambda: load_recipe(own(MINIMAL + "[optimizer]\nlr = 1\n")), UnknownNameError)


def test_a_missing_key_is_named(own):
    """A recipe without a required field is an error that names the field."""
    assert message(lambda: load_recipe(own("batch_size = 4\nlr = 0.1\n"))) == "recipe own lacks epochs, image_size"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('epochs = "ten"', "epochs in recipe own must be a whole number; found 'ten'"),
        ("epochs = 2.5", "epochs in recipe own must be a whole number; found 2.5"),
        ("epochs = true", "epochs in recipe own must be a whole number; found True"),
        ("epochs = inf", "epochs in recipe own must be a whole number; found inf"),
        ("lr = nan", "lr in recipe own must be a number; found nan"),
        ("lr = [0.1]", "lr in recipe own must be a number; found [0.1]"),
        ("nesterov = 1", "nesterov in recipe own must be true or false; found 1"),
        ("augment = 3", "augment in recipe own must be text; found 3"),
        ('default_for = "digits"', "default_for in recipe own must be a list of data sets; found 'digits'"),
        ("default_for = 5", "default_for in recipe own must be a list of data sets; found 5"),
        ("default_for = [5]", "default_for in recipe own must be a list of data sets; found [5]"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(own, line, expected):
    """The message names the key, the recipe, the expected type and the value found."""
    rest = "".join(text + "\n" for text in MINIMAL.splitlines() if text.split()[0] != line.split()[0])
    assert message(lambda: load_recipe(own(rest + line + "\n"))) == expected


def test_a_file_that_is_not_toml_is_an_error_with_the_line(own):
    """The message names the file and the line of the error."""
    assert "own.toml is not valid TOML" in (text := message(lambda: load_recipe(own("epochs = 2\nlr =\n"))))
    assert "line 2" in text


def test_a_file_that_is_not_text_is_refused(own):
    """Bytes that are not UTF-8 are not TOML."""
    assert "is not valid TOML" in message(lambda: load_recipe(own(b"epochs = 2 # \xff\xfe\n")))


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    """A missing file and a folder in its place have different messages."""
    missing, folder = tmp_path / "no.toml", tmp_path / "folder.toml"
    folder.mkdir()
    assert message(lambda: load_recipe(str(missing))) == f"cannot read {missing}: No such file or directory"
    assert message(lambda: load_recipe(str(folder))) == f"cannot read {folder}: it is not a regular file"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"epochs": 0}, "epochs must be a whole number of 1 or more; found 0"),
        ({"batch_size": -1}, "batch_size must be a whole number of 1 or more; found -1"),
        ({"image_size": 0}, "image_size must be a whole number of 1 or more; found 0"),
        ({"lr": -0.1}, "lr must be 0 or more; found -0.1"),
        ({"momentum": -0.1}, "momentum must be 0 or more; found -0.1"),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or more; found -1.0"),
        ({"norm_weight_decay": -1.0}, "norm_weight_decay must be 0 or more; found -1.0"),
        ({"warmup_epochs": -1.0}, "warmup_epochs must be 0 or more; found -1.0"),
        ({"epochs": 10**400}, "epochs and warmup_epochs must be 1000000 or less"),
        ({"warmup_epochs": 1e308}, "epochs and warmup_epochs must be 1000000 or less"),
        ({"image_size": 10**9}, "image_size must be 10000 pixels or less; found 1000000000"),
        ({"clip": -1.0}, "clip must be 0 or more; found -1.0"),
        ({"val_fraction": 0.0}, "val_fraction must be a share of images in (0, 1); found 0.0"),
        ({"val_fraction": 1.0}, "val_fraction must be a share of images in (0, 1); found 1.0"),
        ({"label_smoothing": 1.0}, "label_smoothing must be in [0, 1); found 1.0"),
        ({"norm_batch": 3}, "batch_size 4 is not a multiple of norm_batch 3: choose one that divides it"),
    ],
)
def test_a_recipe_checks_the_range_of_its_values(changes, expected):
    """Each limit has a message with the value found."""
    assert message(lambda: recipe(**changes)) == expected


def test_an_unknown_augmentation_is_refused():
    """The message suggests the similar name."""
    assert "did you mean crop" in message(lambda: recipe(augment="crops"), UnknownNameError)
    assert all(recipe(augment=name).augment == name for name in AUGMENTATIONS)


def test_the_micro_batch_is_the_norm_batch_or_the_whole_batch():
    """A norm batch of 0 means the whole batch."""
    assert (recipe().micro_batch, recipe(norm_batch=2).micro_batch) == (4, 2)


def test_specs_and_recipes_cannot_be_changed():
    """Both are frozen, so they stay valid."""
    for frozen in (recipe(), spec()):
        with pytest.raises(dataclasses.FrozenInstanceError):
            frozen.seed = 3  # type: ignore[misc]


# Run specs


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"track": "tracks"}, "track must be one of prune, supermask; found 'tracks'"),
        ({"precision": "fp16"}, "precision must be one of fp32, bf16; found 'fp16'"),
        ({"zero": 3}, "ZeRO stage must be one of 0, 1, 2; found 3 (3 shards the weights, which a mask needs complete)"),
        ({"device": "tpu"}, "device must be one of auto, cpu, cuda; found 'tpu'"),
        ({"stem": "big"}, "stem must be one of stock, small; found 'big'"),
        ({"procs": 0}, "procs must be a number of processes, 1 or more; found 0"),
        ({"limit_train": 0}, "limit_train must be a number of images, 1 or more; found 0"),
        ({"seed": -1}, "seed must be an integer of 0 or more; found -1"),
    ],
)
def test_a_spec_checks_the_range_of_its_values(changes, expected):
    """Values that are invalid for every method, model and data set are errors at once."""
    assert message(lambda: spec(**changes)) == expected


def test_absolute_paths_do_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    """Relative folders and files become absolute; names of recipes and initializations, and no folder, stay."""
    monkeypatch.chdir(tmp_path)
    paths = {"data_dir": "images", "recipe": "mine.toml", "init": "a/first.safetensors", "results": "out"}
    spec = RunSpec(method="magnitude", model="resnet18", **paths).with_absolute_paths()
    assert {name: getattr(spec, name) for name in paths} == {k: f"{tmp_path}/{v}" for k, v in paths.items()}
    spec = RunSpec(method="magnitude", model="resnet18", recipe="cifar", init="pretrained").with_absolute_paths()
    assert (spec.data_dir, spec.recipe, spec.init) == (None, "cifar", "pretrained")
    assert spec.with_absolute_paths() == spec
