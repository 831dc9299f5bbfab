"""Rules about side effects during training. All of these checks examine the same training."""

from __future__ import annotations

from pruneboard.testing.checks import Check, CheckFailedError, CheckSubject, check, require


def _require_none(subject: CheckSubject, kind: str, remedy: str) -> None:
    found = subject.observed.violations.get(kind)
    if found is not None:
        raise CheckFailedError(f"{found}: {remedy}")


@check(applies=lambda subject: subject.takes_steps, when="training takes optimizer steps")
def gradient_reaches_every_layer(subject: CheckSubject) -> None:
    """In every layer, the weight (if weights are trained) and every parameter of the gate receive a gradient.

    The gradient is nonzero at least once during training.
    """
    without = [name for name, largest in subject.observed.gradients.items() if largest == 0]
    require(not without, f"no gradient ever reaches {', '.join(without)}: does the gate detach, or prune all of it?")


@check()
def touches_only_prunable_weights(subject: CheckSubject) -> None:
    """Hooks change prunable weights and gates, and nothing else in the network."""
    _require_none(subject, "others", "write only to layer.dense and layer.gate")


@check()
def starts_where_all_start(subject: CheckSubject) -> None:
    """No weight is changed before the first optimizer step: every method starts from the same network."""
    _require_none(subject, "start", "keep the initial weights, which are the same for every method")


@check()
def leaves_random_state(subject: CheckSubject) -> None:
    """Hooks and gates do not change the global random states of torch, numpy and Python."""
    _require_none(subject, "random", "draw from gate.draw() or at.generator(layer)")


@check()
def leaves_the_process(subject: CheckSubject) -> None:
    """Hooks leave the process as it is.

    They do not change torch's settings and global hooks, the environment variables, the working directory or signal
    handlers, and leave no thread running.
    """
    _require_none(subject, "settings", "do not change it: the whole process depends on it")


@check()
def pays_for_its_passes(subject: CheckSubject) -> None:
    """Hooks run the network only through the view that `score` receives and the `validate` that `harden` receives."""
    _require_none(subject, "passes", "use the view or `validate`, which count the passes")


@check()
def leaves_modes(subject: CheckSubject) -> None:
    """Hooks do not switch any module between training and evaluation mode."""
    _require_none(subject, "modes", "restore the mode, or do not change it")


@check()
def leaves_requires_grad(subject: CheckSubject) -> None:
    """Hooks do not change `requires_grad` of any parameter."""
    _require_none(subject, "requires_grad", "do not change it: the harness decides what is trained")


@check()
def leaves_the_optimizer(subject: CheckSubject) -> None:
    """Hooks do not change the learning rates or other settings of the optimizer's parameter groups."""
    _require_none(subject, "optimizer", "do not change it: the recipe is the same for every method")


@check()
def leaves_the_harness(subject: CheckSubject) -> None:
    """Training replaces no function, class or constant of the harness."""
    _require_none(subject, "harness", "do not change the harness")


@check()
def keeps_nothing_on_itself(subject: CheckSubject) -> None:
    """Training does not change the pruner or its class: state belongs in gates."""
    _require_none(subject, "pruner", "keep it in a buffer of a gate, or a resumed run starts without it")


@check()
def gate_state_can_be_saved(subject: CheckSubject) -> None:
    """Every tensor of a gate is a parameter or a buffer, so that the harness can save, move and compare it."""
    _require_none(subject, "attributes", "register it as a buffer, with persistent=False if it is derived")


CHECKS: tuple[Check, ...] = (
    gradient_reaches_every_layer,
    touches_only_prunable_weights,
    starts_where_all_start,
    leaves_random_state,
    leaves_the_process,
    pays_for_its_passes,
    leaves_modes,
    leaves_requires_grad,
    leaves_the_optimizer,
    leaves_the_harness,
    keeps_nothing_on_itself,
    gate_state_can_be_saved,
)
