"""The state of a training: budget, phases, calls of hooks, and the count of images."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneboard.errors import AuditError, DivergedError, RunError
from pruneboard.training import loop
from pruneboard.training.state import Training, check_finite, plan_budget
from training_cases import built


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A training of eight steps that hardens at half of them."""
    made = built(tmp_path_factory.mktemp("state"), options={"prune_at": 0.5})
    yield made
    made.engine.close()


@given(fraction=st.floats(0, 1))
@settings(deadline=None, max_examples=30)
def test_the_budget_is_split_at_the_declared_fraction(run, fraction):
    """`harden_step` is the rounded fraction of all steps; epochs and warm-up are those of the recipe."""
    budget = plan_budget(run.recipe, run.dataset, fraction)
    assert budget.harden_step == round(fraction * budget.total)
    assert (budget.total, budget.epochs, budget.steps_per_epoch, budget.warmup) == (8, 2, 4, 0)


def test_the_phase_changes_at_the_harden_step(run):
    """Hooks are in the search before it and in fine-tuning from it on, and the draws follow the step."""
    assert [run.progress(step).phase for step in range(8)] == ["search"] * 4 + ["finetune"] * 4
    seeds = [run.progress(step).generator(run.layers[0]).initial_seed() for step in (2, 3, 2)]
    assert seeds[0] == seeds[2] != seeds[1]


def test_an_error_in_a_hook_names_method_and_hook(run):
    """Errors of the plugin become a RunError with its name; errors of pruneboard pass unchanged."""

    def fails(error):
        raise error

    with pytest.raises(RunError, match=r"^method 'magnitude' of pruneboard .* failed in before_step: KeyError: 'x'"):
        run.hook("before_step", lambda: fails(KeyError("x")))
    for error in (AuditError("mine"), MemoryError("mine")):
        with pytest.raises(type(error), match="mine"):
            run.hook("before_step", lambda error=error: fails(error))


def test_the_time_of_hooks_is_added_up(run):
    """`hook` returns what the hook returns, and its time counts even if it raises."""
    before = run.state.hook_seconds
    assert run.hook("score", lambda: 7) == 7
    once = run.state.hook_seconds
    with pytest.raises(AuditError):
        run.hook("score", lambda: (_ for _ in ()).throw(AuditError("x")))
    assert before < once < run.state.hook_seconds


def test_weights_that_are_not_finite_are_found(run):
    """They raise DivergedError, even in place of the error of a hook that they cause."""
    check_finite(run, 0)
    weight = run.layers[-1].dense
    saved = weight.detach().clone()
    try:
        weight.data.view(-1)[0] = float("nan")
        with pytest.raises(DivergedError, match="no longer finite numbers at step 3"):
            check_finite(run, 3)
        with pytest.raises(DivergedError):
            run.hook("before_step", [].pop)
    finally:
        weight.data.copy_(saved)


def test_a_training_can_become_one_of_a_subclass(run):
    """`from_training` shares every attribute."""

    class Observed(Training):
        pass

    observed = Observed.from_training(run)
    assert isinstance(observed, Observed)
    assert vars(observed) == vars(run)


@pytest.mark.parametrize(
    ("method", "options"),
    [("magnitude", {}), ("probmask", {"samples": 2}), ("probmask", {"samples": 2, "split_batch": True})],
)
def test_images_trained_equals_a_count_of_forward_passes(tmp_path, method, options):
    """The number that training cost is computed from is what a hook on the network counts."""
    made = built(tmp_path, method, options=options)
    seen = []
    made.engine.model.conv1.register_forward_hook(lambda _, inputs, __: seen.append((torch.is_grad_enabled(), inputs)))
    with torch.random.fork_rng(devices=[]):
        loop.fit(made)
    made.engine.close()
    assert sum(len(inputs[0]) for training, inputs in seen if training) == made.images_trained


def test_a_final_mask_over_frozen_weights_needs_no_epoch(tmp_path):
    """With frozen weights and a mask that is final before the first step, nothing is trained."""
    made = built(tmp_path, "random", 0.5, track="supermask")
    made.engine.close()
    assert (made.epochs, made.images_trained) == (0, 0)
