"""Budgets that are refused: the warm-up must end before the search does, and the search must take steps."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from board_file_cases import BOARDS
from pruneboard import registry
from pruneboard.api import Traits
from pruneboard.errors import PluginError
from pruneboard.experiment.prepare import check_schedule, choose_track, effective_traits, prepare, resolve_recipe
from pruneboard.spec import load_recipe, recipe_names
from pruneboard.sweeps.board_file import load_board
from pruneboard.sweeps.plan import MachineSettings, board_specs
from pruneboard.training.state import Budget
from runs import refusal, tiny


@pytest.mark.parametrize(
    ("method", "options", "epochs", "warmup", "message"),
    [
        (
            "probmask",
            {},
            1,
            5.0,
            "must end before the search of method 'probmask' does, after 4 of 4 steps",
        ),
        ("probmask", {}, 4, 3.75, "does, after 15 of 16 steps: use --epochs 5 or more, or --warmup-epochs 3.5 or less"),
        (
            "magnitude",
            {"prune_at": 0.25},
            4,
            1.0,
            "after 4 of 16 steps: use --epochs 5 or more, or --warmup-epochs 0.7",
        ),
        (
            "random",
            {},
            2,
            2.0,
            "the training does, after 8 of 8 steps: use --epochs 3 or more, or --warm",
        ),
        ("dense", {}, 1, 1.0, "after 4 of 4 steps: use --epochs 2 or more, or --warmup-epochs 0.75 or less"),
    ],
)
def test_the_warm_up_must_end_before_the_search(tmp_path, method, options, epochs, warmup, message):
    """A budget in which the learning rate rises to the end of the search is refused; what the message names is not."""
    sparsity = None if method == "dense" else 0.9
    overrides = {"epochs": epochs, "warmup_epochs": warmup}
    text = refusal(tmp_path, method, sparsity, options=options, overrides=overrides)
    assert text.startswith(f"the warm-up takes {round(4 * warmup)} steps (--warmup-epochs {warmup:g}) and must")
    assert message in text
    enough = int(text.split("use --epochs ")[1].split()[0])
    less = float(text.split("or --warmup-epochs ")[1].split()[0])
    for changes in ({"epochs": enough}, {"warmup_epochs": less}):
        prepare(tiny(tmp_path, method, sparsity, options=options, overrides=overrides | changes))
    refusal(tmp_path, method, sparsity, options=options, overrides=overrides | {"epochs": enough - 1})
    refusal(tmp_path, method, sparsity, options=options, overrides=overrides | {"warmup_epochs": less + 0.25})


def test_a_warm_up_is_no_matter_where_nothing_is_trained(tmp_path):
    """A drawn mask of frozen weights takes no step, whatever the recipe says."""
    prepare(tiny(tmp_path, "random", 0.5, track="supermask", overrides={"epochs": 1, "warmup_epochs": 2.0}))


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_no_committed_board_is_refused_for_its_schedule(path):
    """In every run of every board, the search takes steps, and the warm-up ends before it."""
    board = load_board(path)
    specs = board_specs(board, MachineSettings(results="results"))
    for spec in (spec for spec in specs if spec.seed == specs[0].seed):  # the schedule does not depend on the seed
        info = registry.find(spec.method)
        pruner = registry.build(info, spec.sparsity, spec.options)
        track = choose_track(pruner, spec)
        recipe = resolve_recipe(spec)
        per_epoch = int(board.data.train * (1 - recipe.val_fraction)) // recipe.batch_size
        traits = effective_traits(pruner, track, info)
        total = recipe.epochs * per_epoch
        warmup = round(recipe.warmup_epochs * per_epoch)
        check_schedule(
            spec, recipe, traits, Budget(recipe.epochs, per_epoch, round(traits.harden_at * total), warmup), track
        )


@pytest.mark.parametrize("recipe", recipe_names())
def test_no_recipe_is_refused_for_its_schedule(recipe):
    """With the default options of every method, the warm-up of a packaged recipe ends in half of the search."""
    found = load_recipe(recipe)
    for info in registry.installed():
        pruner = registry.build(info, 0.5 if registry.takes_sparsity(registry.load(info)) else None, {})
        share = min(pruner.traits(track).harden_at or 1 for track in pruner.tracks)
        assert found.warmup_epochs < found.epochs * share / 2


@pytest.mark.parametrize(("prune_at", "least"), [(0.5, 2), (0.25, 3), (0.1, 6), (0.01, 51), (1e-3, 501)])
def test_a_search_without_a_step_is_refused(tmp_path, prune_at, least):
    """If `harden_at` of the steps rounds to 0, the untrained network would be pruned; the least number is named."""
    assert [round(prune_at * steps) > 0 for steps in (least - 1, least)] == [False, True]
    overrides = {"epochs": 1, "batch_size": 130}
    text = refusal(tmp_path, options={"prune_at": prune_at}, overrides=overrides)
    assert text == (
        f"the search of method 'magnitude' takes {prune_at:g} of the budget, which is no step of 1 in all: "
        f"raise --epochs or lower --batch-size, so that there are {least} steps or more"
    )
    refusal(tmp_path, options={"prune_at": prune_at}, overrides=overrides | {"epochs": least - 1})
    for changes in (
        {"options": {"prune_at": prune_at}, "overrides": overrides | {"epochs": least}},
        {"options": {"prune_at": 0.0}, "overrides": overrides},
    ):
        prepare(tiny(tmp_path, **changes))


def test_a_search_of_next_to_nothing_is_refused(tmp_path):
    """For a fraction so small that no training reaches it, the message still says what is missing."""
    assert refusal(tmp_path, options={"prune_at": 1e-320}).endswith("so that there are a billion steps or more")


@pytest.mark.parametrize("declared", [1.5, -0.1, float("nan"), "half"])
def test_a_method_that_declares_no_fraction_is_refused(declared):
    """`harden_at` is a number from 0 to 1, whoever declares it."""
    info = registry.find("magnitude")
    pruner = SimpleNamespace(traits=lambda track: Traits(harden_at=declared))
    with pytest.raises(PluginError, match=r"declares harden_at=.*: it is a fraction in \[0, 1\]"):
        effective_traits(pruner, "prune", info)
