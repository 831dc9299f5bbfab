"""Specs and recipes: what is accepted, and the one line that refuses the rest."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneboard.coerce import build_dataclass, convert
from pruneboard.data import DATASETS
from pruneboard.errors import PruneboardError, UnknownNameError, UsageError
from pruneboard.spec import (
    AUGMENTATIONS,
    RECIPE_FIELDS,
    Recipe,
    RunSpec,
    TrackName,
    check_sparsity,
    default_recipe,
    load_recipe,
    recipe_names,
)

MINIMAL = "epochs = 2\nbatch_size = 4\nlr = 0.1\nimage_size = 8\n"
FEW = settings(deadline=None, max_examples=60)


def message(call, kind: type[PruneboardError] = UsageError) -> str:
    """Return the message of the error that `call` raises, which is one line."""
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def recipe(**changes: Any) -> Recipe:
    """Return a small valid recipe with some fields changed."""
    return Recipe(**{"name": "x", "epochs": 2, "batch_size": 4, "lr": 0.1, "image_size": 8, **changes})


def spec(**changes: Any) -> RunSpec:
    """Return a valid spec with some fields changed."""
    return RunSpec(**{"method": "m", "model": "net", **changes})


@pytest.fixture
def own(tmp_path):
    """A writer of recipe files: takes text, returns the file's path as text."""

    def write(text: str | bytes) -> str:
        path = tmp_path / "own.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


# Sparsity


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.0, "sparsity is a fraction of zeros, in [0, 1); found 1.0"),
        (-0.1, "sparsity is a fraction of zeros, in [0, 1); found -0.1"),
        (90, "sparsity is a fraction of zeros, in [0, 1); found 90; for 90 % write 0.9"),
        ("97.5", "sparsity is a fraction of zeros, in [0, 1); found 97.5; for 97.5 % write 0.975"),
        ("abc", "sparsity is a fraction of zeros, such as 0.9; found 'abc'"),
        ([0.9], "sparsity is a fraction of zeros, such as 0.9; found [0.9]"),
        (math.nan, "sparsity is a fraction of zeros, in [0, 1); found nan"),
        (math.inf, "sparsity is a fraction of zeros, in [0, 1); found inf"),
        (100, "sparsity is a fraction of zeros, in [0, 1); found 100"),
    ],
)
def test_a_wrong_sparsity_is_refused_with_the_reason(value, expected):
    """The message names what a sparsity is, what was found, and for a percentage the fraction meant."""
    assert message(lambda: check_sparsity(value)) == expected
    assert message(lambda: spec(sparsity=value)) == expected


def test_a_sparsity_beyond_floating_point_is_refused():
    """An integer too large for a float is a wrong sparsity like any other."""
    assert message(lambda: check_sparsity(10**400)).startswith("sparsity is a fraction of zeros")


@given(st.floats(0, 1, exclude_max=True))
@FEW
def test_every_fraction_below_one_is_a_sparsity(value):
    """Numbers in [0, 1), and their text, come back unchanged."""
    assert check_sparsity(value) == check_sparsity(repr(value)) == value
    assert spec(sparsity=value).sparsity == value


def test_zero_has_one_sign():
    """-0.0 is 0.0: two ways to write no sparsity are one run, with one content hash."""
    assert math.copysign(1, check_sparsity(-0.0)) == 1


def test_a_spec_holds_its_sparsity_as_a_number():
    """What the command line gives as text is a number once it is part of a spec."""
    assert spec(sparsity="0.9").sparsity == 0.9
    assert spec().sparsity is None


# Recipes


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_loads(name):
    """A recipe that comes with pruneboard is valid, named after its file, and the default of some data set."""
    found = load_recipe(name)
    assert found.name == name
    assert found.default_for
    assert set(found.default_for) <= set(DATASETS)


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_data_set_has_one_default_recipe(dataset):
    """No data set is claimed by two recipes, and none is left out."""
    claiming = [name for name in recipe_names() if dataset in load_recipe(name).default_for]
    assert [default_recipe(dataset)] == claiming


def test_a_data_set_without_recipe_is_told_to_name_one():
    """The error says what to do."""
    assert "select one with --recipe" in message(lambda: default_recipe("mnist"))


def test_an_unknown_recipe_gives_the_near_name_and_the_way_to_an_own_file():
    """A typo is answered with the recipe meant, and a file is named by its path."""
    text = message(lambda: load_recipe("digit"), UnknownNameError)
    assert text == "unknown recipe 'digit': did you mean digits? for a file of your own, give its path, such as x.toml"


def test_an_own_file_is_a_recipe(own):
    """A path that ends in .toml is read; the recipe is named after the file."""
    found = load_recipe(own(MINIMAL + 'default_for = ["digits"]\nwarmup_epochs = 1\n'))
    assert (found.name, found.epochs, found.default_for, found.warmup_epochs) == ("own", 2, ("digits",), 1.0)
    assert isinstance(found.warmup_epochs, float)


def test_overrides_replace_what_the_file_says():
    """An override wins over the file, as a number or as its text, and nothing else changes."""
    plain, changed = load_recipe("digits"), load_recipe("digits", {"epochs": "3", "lr": 0.5, "nesterov": "true"})
    assert changed == dataclasses.replace(plain, epochs=3, lr=0.5, nesterov=True)


def test_a_recipe_field_is_what_a_flag_may_override():
    """Every field has a flag except the two that say what the recipe is."""
    assert set(RECIPE_FIELDS) == {f.name for f in dataclasses.fields(Recipe)} - {"name", "default_for"}


def test_a_mistyped_key_names_the_one_meant(own):
    """An unknown key is refused, never ignored."""
    text = message(lambda: load_recipe(own(MINIMAL + "wieght_decay = 0.1\n")), UnknownNameError)
    assert "own" in text
    assert text.endswith("'wieght_decay': did you mean weight_decay or norm_weight_decay?")


def test_a_mistyped_override_names_the_one_meant():
    """Overrides are checked as the file's keys are."""
    assert "did you mean epochs?" in message(lambda: load_recipe("digits", {"epoch": 1}), UnknownNameError)


def test_a_table_in_a_recipe_is_an_unknown_key(own):
    """A recipe is flat."""
    assert "'optimizer'" in message(lambda: load_recipe(own(MINIMAL + "[optimizer]\nlr = 1\n")), UnknownNameError)


def test_a_missing_key_is_named(own):
    """A recipe without an epoch count cannot be guessed."""
    assert message(lambda: load_recipe(own("batch_size = 4\nlr = 0.1\n"))) == "recipe own lacks epochs, image_size"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('epochs = "ten"', "epochs in recipe own is a whole number; found 'ten'"),
        ("epochs = 2.5", "epochs in recipe own is a whole number; found 2.5"),
        ("epochs = true", "epochs in recipe own is a whole number; found True"),
        ("epochs = inf", "epochs in recipe own is a whole number; found inf"),
        ("lr = nan", "lr in recipe own is a number; found nan"),
        ("lr = [0.1]", "lr in recipe own is a number; found [0.1]"),
        ("nesterov = 1", "nesterov in recipe own is true or false; found 1"),
        ("augment = 3", "augment in recipe own is text; found 3"),
        ('default_for = "digits"', "default_for in recipe own is a list of data sets; found 'digits'"),
        ("default_for = 5", "default_for in recipe own is a list of data sets; found 5"),
        ("default_for = [5]", "default_for in recipe own is a list of data sets; found [5]"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(own, line, expected):
    """The message holds the key, the recipe, the type wanted and the value found."""
    rest = "".join(text + "\n" for text in MINIMAL.splitlines() if text.split()[0] != line.split()[0])
    assert message(lambda: load_recipe(own(rest + line + "\n"))) == expected


def test_a_file_that_is_not_toml_is_refused_with_its_place(own):
    """The line of the mistake is part of the message."""
    assert "own.toml is not valid TOML" in (text := message(lambda: load_recipe(own("epochs = 2\nlr =\n"))))
    assert "line 2" in text


def test_a_file_that_is_not_text_is_refused(own):
    """Bytes that are not UTF-8 are no TOML either."""
    assert "is not valid TOML" in message(lambda: load_recipe(own(b"epochs = 2 # \xff\xfe\n")))


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    """A missing file, and a folder of that name, are told apart."""
    missing, folder = tmp_path / "no.toml", tmp_path / "folder.toml"
    folder.mkdir()
    assert message(lambda: load_recipe(str(missing))) == f"cannot read {missing}: No such file or directory"
    assert message(lambda: load_recipe(str(folder))) == f"cannot read {folder}: Is a directory"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"epochs": 0}, "epochs is a whole number of 1 or more; found 0"),
        ({"batch_size": -1}, "batch_size is a whole number of 1 or more; found -1"),
        ({"image_size": 0}, "image_size is a whole number of 1 or more; found 0"),
        ({"lr": -0.1}, "lr is 0 or more; found -0.1"),
        ({"momentum": -0.1}, "momentum is 0 or more; found -0.1"),
        ({"weight_decay": -1.0}, "weight_decay is 0 or more; found -1.0"),
        ({"norm_weight_decay": -1.0}, "norm_weight_decay is 0 or more; found -1.0"),
        ({"warmup_epochs": -1.0}, "warmup_epochs is 0 or more; found -1.0"),
        ({"clip": -1.0}, "clip is 0 or more; found -1.0"),
        ({"val_fraction": 0.0}, "val_fraction is a share of the training images, in (0, 1); found 0.0"),
        ({"val_fraction": 1.0}, "val_fraction is a share of the training images, in (0, 1); found 1.0"),
        ({"label_smoothing": 1.0}, "label_smoothing is in [0, 1); found 1.0"),
        ({"norm_batch": 3}, "batch_size 4 is not a multiple of norm_batch 3: choose one that divides it"),
    ],
)
def test_a_recipe_refuses_what_no_training_could_mean(changes, expected):
    """Each limit has a message with the value found."""
    assert message(lambda: recipe(**changes)) == expected


def test_an_unknown_augmentation_is_refused():
    """The near name is suggested."""
    assert "did you mean crop" in message(lambda: recipe(augment="crops"), UnknownNameError)
    assert all(recipe(augment=name).augment == name for name in AUGMENTATIONS)


def test_the_micro_batch_is_the_norm_batch_or_the_whole_batch():
    """0 stands for the whole batch."""
    assert (recipe().micro_batch, recipe(norm_batch=2).micro_batch) == (4, 2)


def test_specs_and_recipes_cannot_be_changed():
    """Both are frozen: what was validated stays what it was."""
    for frozen in (recipe(), spec()):
        with pytest.raises(dataclasses.FrozenInstanceError):
            frozen.seed = 3  # type: ignore[misc]


# Run specs


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"track": "tracks"}, "track is one of prune, supermask; found 'tracks'"),
        ({"precision": "fp16"}, "precision is one of fp32, bf16; found 'fp16'"),
        ({"zero": 3}, "ZeRO stage is one of 0, 1, 2; found 3 (3 shards the weights a mask must see whole)"),
        ({"device": "tpu"}, "device is one of auto, cpu, cuda; found 'tpu'"),
        ({"stem": "big"}, "stem is one of stock, small; found 'big'"),
        ({"procs": 0}, "procs is the number of processes, 1 or more; found 0"),
        ({"limit_train": 0}, "limit_train is a number of images, 1 or more; found 0"),
        ({"seed": -1}, "seed is an integer of 0 or more; found -1"),
    ],
)
def test_a_spec_refuses_what_no_run_could_mean(changes, expected):
    """What can be refused without looking at method, model or data is refused at once."""
    assert message(lambda: spec(**changes)) == expected


def test_a_spec_needs_a_method_and_a_model():
    """Nothing else lacks a default."""
    assert message(lambda: build_dataclass(RunSpec, {}, "the request")) == "the request lacks method, model"
    assert build_dataclass(RunSpec, {"method": "m", "model": "net"}, "the request") == spec()


def test_building_a_spec_converts_optional_fields():
    """A type or None takes None, the type, and the type's text."""
    values = {"method": "m", "model": "net", "limit_train": "7", "sparsity": "0.5", "recipe": None, "track": "prune"}
    found = build_dataclass(RunSpec, values, "the request")
    assert (found.limit_train, found.sparsity, found.recipe, found.track) == (7, 0.5, None, "prune")


# Conversion


@given(st.integers())
@FEW
def test_whole_numbers_convert_exactly(number):
    """Any integer, as a number or as text, comes back to the last digit."""
    assert convert(number, int, "x") == convert(str(number), int, "x") == number


@given(st.floats(allow_nan=False, allow_infinity=False))
@FEW
def test_a_whole_number_is_never_made_from_a_fraction(number):
    """A float converts to an int only where it is one."""
    if number.is_integer():
        assert convert(number, int, "x") == number
    else:
        assert message(lambda: convert(number, int, "x")) == f"x is a whole number; found {number!r}"


@given(st.floats(allow_nan=False, allow_infinity=False))
@FEW
def test_numbers_convert_exactly(number):
    """Any finite float, as a number or as text, comes back to the last bit."""
    assert convert(number, float, "x") == convert(repr(number), float, "x") == number


@pytest.mark.parametrize("kind", [int, float])
@given(text=st.text(max_size=8) | st.text("0123456789.-e_ ", max_size=5))
@FEW
def test_text_is_the_number_it_spells_or_refused_in_one_line(kind, text):
    """Whatever Python reads as a finite number of that type passes, all else is an error; text stays text."""
    assert convert(text, str, "x") == text
    try:
        expected = kind(text)
    except ValueError:
        expected = math.nan
    if math.isfinite(expected):
        assert convert(text, kind, "x") == expected
    else:
        message(lambda: convert(text, kind, "x"))


@pytest.mark.parametrize("value", [math.nan, math.inf, "nan", "-inf", True, [], {}, 10**400])
def test_what_is_no_finite_number_is_refused(value):
    """NaN, infinities, truth values and containers are not numbers."""
    assert message(lambda: convert(value, float, "x")).startswith("x is a number; found ")


@pytest.mark.parametrize(
    ("value", "expected"), [(True, True), (False, False), ("true", True), ("False", False), ("TRUE", True)]
)
def test_truth_values_convert(value, expected):
    """A truth value may be spelled in any case."""
    assert convert(value, bool, "x") is expected


@pytest.mark.parametrize("value", [1, 0, "yes", "", 1.0, []])
def test_what_is_no_truth_value_is_refused(value):
    """Neither 1 nor "yes" is taken for true."""
    assert message(lambda: convert(value, bool, "x")) == f"x is true or false; found {value!r}"


@pytest.mark.parametrize("hint", [Literal["a", "b"], Literal["a", "b"] | None])
def test_a_choice_takes_its_names_only(hint):
    """Of a Literal, also an optional one, exactly the named values pass."""
    assert [convert(value, hint, "x") for value in ("a", "b", None)] == ["a", "b", None]
    assert message(lambda: convert("c", hint, "x")) == "x is one of a, b; found 'c'"


def test_a_choice_of_numbers_may_be_given_as_text():
    """What the command line gives as text becomes the number that the Literal names."""
    assert [convert(value, Literal[1, 2], "x") for value in (1, "2")] == [1, 2]
    assert message(lambda: convert("3", Literal[1, 2], "x")) == "x is one of 1, 2; found '3'"


def test_a_track_is_such_a_choice():
    """The one Literal of a spec."""
    assert convert("supermask", TrackName, "track") == "supermask"


def test_an_optional_number_is_checked_like_the_number():
    """`int | None` takes None and integers, and refuses the rest."""
    assert [convert(value, int | None, "x") for value in (None, 3, "4")] == [None, 3, 4]
    assert message(lambda: convert("a", int | None, "x")) == "x is a whole number; found 'a'"


@pytest.mark.parametrize("hint", [Any, object, tuple, tuple[int, int], tuple[str, ...], Mapping[str, object]])
def test_what_has_no_converter_of_its_own_passes_as_it_is(hint):
    """A tuple or a mapping is left to the class that declares it."""
    value = (1, 2)
    assert convert(value, hint, "x") is value
