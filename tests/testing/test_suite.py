"""The suite: which checks apply, what their results contain, and that a check leaves nothing behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from mutants_results import OffByOne, PrunesOnce
from sound import Sound, SoundScores

from pruneboard.api import Traits
from pruneboard.errors import UnknownNameError
from pruneboard.testing import (
    CheckFailedError,
    Result,
    check_pruner,
    pair,
    pruner_checks,
)
from pruneboard.testing.trial import Trial

EXPECTED = {"hits-the-target": "it keeps one too few", "is-repeatable": "it never was"}


class Checked(NamedTuple):
    """Everything observed while checking a pruner that keeps one position too few."""

    results: dict[str, Result]
    heard: list[Result]
    changed: list[str]
    left: list[Path]
    lost: list[pair.Reply]
    alive: tuple[bool, bool]


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """Run all checks once; afterwards end a process of the pair, and request a new pair."""
    Trial(Sound(sparsity=0.9), "prune").build().engine.close()  # the first engine in a process changes settings
    before, heard = _process_state(), []
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("temporary")
        patch.setattr(tempfile, "tempdir", str(folder))
        found = check_pruner(OffByOne(sparsity=0.9), EXPECTED, listener=heard.append)
    changed = [name for name, value in _process_state().items() if value != before[name]]
    first = pair.shared_pair()
    lost = first.run_on_both(ended)
    alive = (first.alive, pair.shared_pair().alive)
    pair.shared_pair().close()
    return Checked({result.check: result for result in found}, heard, changed, list(folder.iterdir()), lost, alive)


def ended():
    """A task that ends its process."""
    os.kill(os.getpid(), signal.SIGKILL)


def _process_state():
    """State of the process that a check must not change."""
    numpy_state = np.random.get_state()  # noqa: NPY002 - reads the state, draws nothing
    return {
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "torch": torch.get_rng_state().tolist(),
        "numpy": (numpy_state[1].tolist(), numpy_state[2:]),
        "Python": random.getstate(),
        "gradients": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "paths": list(sys.path),
    }


def test_results_are_data(checked):
    """Each check has one result; the listener gets them in the order of the suite, and they can be written as JSON."""
    assert checked.heard == list(checked.results.values())
    assert list(checked.results) == [bound.name for bound in pruner_checks(OffByOne(sparsity=0.9))]
    assert json.loads(json.dumps([result.as_dict() for result in checked.heard]))[0]["tier"] == "core"
    assert {result.outcome for result in checked.heard} == {"passed", "failed", "skipped", "expected"}


def test_every_result_but_a_pass_has_a_message_of_one_line(checked):
    """A result other than a pass has a message of one line; a pass has none."""
    for result in checked.results.values():
        assert bool(result.message) == (result.outcome != "passed"), result.check
        assert "\n" not in result.message
        assert result.seconds >= 0


def test_an_expected_failure_has_its_own_outcome(checked):
    """Its message has the given reason and what was found."""
    found = checked.results["hits-the-target"]
    assert found.outcome == "expected"
    assert "it keeps one too few (at sparsity" in found.message


def test_an_expected_failure_that_passes_is_a_failure(checked):
    """A check that passes although it is listed as an expected failure counts as failed."""
    found = checked.results["is-repeatable"]
    assert found.outcome == "failed"
    assert "it never was" in found.message
    assert "unlist it" in found.message


def test_nothing_is_left_behind(checked):
    """Files, processes, environment variables and random states are the same as before the checks."""
    assert not checked.changed
    assert not checked.left
    assert not multiprocessing.active_children()


def test_an_unknown_check_is_refused_before_any_check_runs():
    """A mistyped name of an expected failure is an error that suggests the nearest name."""
    with pytest.raises(UnknownNameError, match="did you mean hits-the-target"):
        check_pruner(Sound(sparsity=0.9), {"hits-target": "why"}, listener=pytest.fail)


def names(pruner):
    """The names of the checks that apply."""
    return {bound.name for bound in pruner_checks(pruner)}


@dataclass(frozen=True, kw_only=True)
class OnSupermasks(SoundScores):
    """The correct pruner with scores, on the supermask track only (2020)."""

    tracks = frozenset({"supermask"})


@dataclass(frozen=True, kw_only=True)
class FixedSupermask(Sound):
    """A supermask that is final before the first step (2020)."""

    tracks = frozenset({"supermask"})

    def traits(self, track):
        return Traits(harden_at=0.0)


def test_checks_apply_by_traits():
    """Without a target sparsity no count is checked, and without optimizer steps nothing about learning."""
    counts = {"hits-the-target", "zero-sparsity-is-dense", "reaches-extreme-sparsity"}
    frozen, learning = {"frozen-weights-stay-frozen"}, {"gradient-reaches-every-layer", "resumes-from-its-state"}
    everything = names(Sound(sparsity=0.9))
    assert everything - names(PrunesOnce(sparsity=0.9)) == counts
    assert names(OnSupermasks(sparsity=0.9)) - everything == frozen
    assert everything | frozen == names(OnSupermasks(sparsity=0.9))
    assert names(OnSupermasks(sparsity=0.9)) - names(FixedSupermask(sparsity=0.9)) >= learning


def test_a_check_that_trains_runs_on_each_track():
    """With two tracks, its name includes the track; a check without training runs once."""
    found = names(SoundScores(sparsity=0.9))
    assert {"is-repeatable[prune]", "is-repeatable[supermask]", "frozen-weights-stay-frozen[supermask]"} <= found
    assert {"frozen-and-picklable", "traits-are-constant"} <= found
    assert "frozen-weights-stay-frozen[prune]" not in found


def test_a_class_inside_a_function_is_reported():
    """A class that another process cannot import fails the pickling check and those with processes, with the reason."""

    @dataclass(frozen=True, kw_only=True)
    class Local(Sound):
        """Defined inside a function (2017)."""

    pruner = Local(sparsity=0.9)
    checks = {bound.name: bound for bound in pruner_checks(pruner)}
    with pytest.raises(CheckFailedError, match=r"Local.*define the class at the top level of a module"):
        checks["frozen-and-picklable"](pruner)
    for name in ("resumes-from-its-state", "two-processes-agree"):
        with pytest.raises(CheckFailedError, match=r"it cannot be sent to another process: .*Local"):
            checks[name](pruner)


SCRIPT = """
    from dataclasses import dataclass
    from sound import Sound
    from pruneboard.testing import pruner_checks

    @dataclass(frozen=True, kw_only=True)
    class Mine(Sound):
        pass

    def run():
        for check in pruner_checks(Mine(sparsity=0.9)):
            if check.name == "two-processes-agree":
                try:
                    check(Mine(sparsity=0.9))
                    print("passed")
                except AssertionError as error:
                    print("failed:", error)

"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("last", "expected"),
    [("if __name__ == '__main__':\n    run()", "passed"), ("run()", "what it does under `if __name__")],
)
def test_a_class_of_a_script(tmp_path, last, expected):
    """A class of the main script works if the script has a main guard; without one, the error asks for it."""
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(SCRIPT) + last, encoding="utf-8")
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    found = subprocess.run(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert expected in found.stdout, found.stderr


def test_a_lost_process_is_one_failure(checked):
    """A task that ends its process gets an error as its answer, and the next request a new pair."""
    assert all("a process ended" in answer.error for answer in checked.lost)
    assert checked.alive == (False, True)
