"""Rules about what a method leaves alone while it trains. All of them look at one training."""

from __future__ import annotations

from pruneboard.testing.subject import Check, CheckFailedError, Subject, check, require


def _clean(subject: Subject, kind: str, remedy: str) -> None:
    found = subject.watched.wrong.get(kind)
    if found is not None:
        raise CheckFailedError(f"{found}: {remedy}")


@check(applies=lambda subject: subject.learns, when="something is learned")
def gradient_reaches_every_layer(subject: Subject) -> None:
    """In every layer the weight, where weights are trained, and every parameter of its gate receive a gradient.

    In the course of a training it is other than zero at least once.
    """
    silent = [name for name, largest in subject.watched.gradients.items() if largest == 0]
    require(not silent, f"no gradient ever reaches {', '.join(silent)}: does the gate detach, or prune all of it?")


@check()
def touches_only_prunable_weights(subject: Subject) -> None:
    """Hooks change prunable weights and gates, and nothing else of the network."""
    _clean(subject, "others", "only layer.dense and layer.gate are a method's to write")


@check()
def starts_where_all_start(subject: Subject) -> None:
    """Before the first optimizer step no weight is changed: every method starts from the same network."""
    _clean(subject, "start", "weights of its own would make it another experiment")


@check()
def leaves_random_state(subject: Subject) -> None:
    """Hooks and gates leave the global random states of torch, numpy and Python as they find them."""
    _clean(subject, "random", "draw from gate.draw() or at.generator(layer)")


@check()
def leaves_the_process(subject: Subject) -> None:
    """Hooks leave torch's settings, the environment and the working folder as they find them."""
    _clean(subject, "settings", "it is the same for all that runs in the process")


@check()
def pays_for_its_passes(subject: Subject) -> None:
    """Hooks run the network only by what they are lent for it: the view in `score`, and `validate` in `harden`."""
    _clean(subject, "passes", "passes that nobody counts are training that nobody pays")


@check()
def leaves_modes(subject: Subject) -> None:
    """Hooks leave every module in the mode, training or evaluation, that they find it in."""
    _clean(subject, "modes", "put it back, or leave it alone")


@check()
def leaves_requires_grad(subject: Subject) -> None:
    """Hooks leave `requires_grad` of every parameter as they find it."""
    _clean(subject, "requires_grad", "what is trained is the harness's to decide, and under ZeRO this does nothing")


@check()
def leaves_the_optimizer(subject: Subject) -> None:
    """Hooks leave the optimizer's learning rates and rules as they find them."""
    _clean(subject, "optimizer", "the recipe is the same for every method")


@check()
def leaves_the_harness(subject: Subject) -> None:
    """A training replaces no function, class or constant of the harness."""
    _clean(subject, "harness", "a method that changes the referee is not on the board")


@check()
def keeps_nothing_on_itself(subject: Subject) -> None:
    """The pruner and its class are after a training what they were before: state lives in gates."""
    _clean(subject, "pruner", "a resumed run would start without it; keep it in a buffer of the gate")


@check()
def gate_state_can_be_saved(subject: Subject) -> None:
    """Every tensor of a gate is a parameter or a buffer, so that it is saved, moved and compared."""
    _clean(subject, "attributes", "register it as a buffer, not persistent where it is derived from others")


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
