"""The suite itself: what it yields, what its results are, and that it leaves nothing behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
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
from pruneboard.testing.bench import Bench
from sound import Sound, SoundScores

from pruneboard import scores
from pruneboard.api import Traits
from pruneboard.errors import UnknownNameError
from pruneboard.experiment import audit
from pruneboard.testing import (
    CheckFailedError,
    Result,
    check_pruner,
    engines,
    pair,
    parametrize_with_checks,
    pruner_checks,
    referee,
)
from pruneboard.training import loop, optim

pytest_plugins = ["pytester"]

EXPECTED = {"hits-the-target": "it keeps one too few", "is-repeatable": "it never was"}


class Tried(NamedTuple):
    """What came of checking a pruner that keeps one position too few."""

    results: dict[str, Result]
    heard: list[Result]
    changed: list[str]
    left: list[Path]
    lost: list[pair.Answer]
    alive: tuple[bool, bool]


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """A whole check; its pair of processes is lost afterwards, and another one asked for."""
    Bench(Sound(sparsity=0.9), "prune").ready().engine.close()  # what the engine sets when it is first used stays
    before, heard = _surroundings(), []
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("temporary")
        patch.setattr(tempfile, "tempdir", str(folder))
        found = check_pruner(OffByOne(sparsity=0.9), EXPECTED, listener=heard.append)
    changed = [name for name, value in _surroundings().items() if value != before[name]]
    first = pair.current()
    lost = first.together(ended)
    alive = (first.alive, pair.current().alive)
    pair.current().close()
    return Tried({result.check: result for result in found}, heard, changed, list(folder.iterdir()), lost, alive)


def ended():
    """A task that ends its process."""
    os._exit(1)


def _surroundings():
    """What a check has no business with."""
    numpy_state = np.random.get_state()  # noqa: NPY002 - it is looked at, not drawn from
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


def test_results_are_data(tried):
    """Each check has one result, which the listener hears in the order of the suite and which JSON can hold."""
    assert tried.heard == list(tried.results.values())
    assert list(tried.results) == [bound.name for bound in pruner_checks(OffByOne(sparsity=0.9))]
    assert json.loads(json.dumps([result.as_dict() for result in tried.heard]))[0]["tier"] == "core"
    assert {result.outcome for result in tried.heard} == {"passed", "failed", "skipped", "expected"}


def test_what_fails_and_what_is_skipped_says_why_in_one_line(tried):
    """Whatever does not pass has a message, of one line; what passes has none."""
    for result in tried.results.values():
        assert bool(result.message) == (result.outcome != "passed"), result.check
        assert "\n" not in result.message
        assert result.seconds >= 0


def test_an_expected_failure_is_none(tried):
    """It is told apart from a failure, with the reason that was given and what was found."""
    found = tried.results["hits-the-target"]
    assert found.outcome == "expected"
    assert "it keeps one too few (at sparsity" in found.message


def test_an_expected_failure_that_passes_is_a_failure(tried):
    """A reason that outlived its failure has to go."""
    found = tried.results["is-repeatable"]
    assert found.outcome == "failed"
    assert "it never was" in found.message
    assert "unlist it" in found.message


def test_nothing_is_left_behind(tried):
    """No file, no process, no variable of the environment, no random state: all is as it was before."""
    assert not tried.changed
    assert not tried.left
    assert not multiprocessing.active_children()


def test_an_unknown_check_is_refused_before_anything_is_tried():
    """A mistyped name of an expected failure is an error, which names the nearest."""
    with pytest.raises(UnknownNameError, match="did you mean hits-the-target"):
        check_pruner(Sound(sparsity=0.9), {"hits-target": "why"}, listener=pytest.fail)
    with pytest.raises(UnknownNameError, match="did you mean is-repeatable"):
        parametrize_with_checks([Sound(sparsity=0.9)], expected_failures={"is-repeatabel": "why"})


def names(pruner):
    """Of the checks that apply."""
    return {bound.name for bound in pruner_checks(pruner)}


@dataclass(frozen=True, kw_only=True)
class OnSupermasks(SoundScores):
    """The sound scores on one track (2020)."""

    tracks = frozenset({"supermask"})


@dataclass(frozen=True, kw_only=True)
class FixedSupermask(Sound):
    """A mask that is final before the first step (2020)."""

    tracks = frozenset({"supermask"})

    def traits(self, track):
        return Traits(harden_at=0.0)


def test_checks_apply_by_traits():
    """No count is asked where the sparsity emerges, nothing of learning where nothing is learned."""
    counts = {"hits-the-target", "zero-sparsity-is-dense", "reaches-extreme-sparsity"}
    frozen, learning = {"frozen-weights-stay-frozen"}, {"gradient-reaches-every-layer", "resumes-from-its-state"}
    everything = names(Sound(sparsity=0.9))
    assert everything - names(PrunesOnce(sparsity=0.9)) == counts
    assert names(OnSupermasks(sparsity=0.9)) - everything == frozen
    assert everything | frozen == names(OnSupermasks(sparsity=0.9))
    assert names(OnSupermasks(sparsity=0.9)) - names(FixedSupermask(sparsity=0.9)) >= learning


def test_a_check_that_trains_is_tried_on_each_track():
    """With two tracks its name says on which; what needs no training is tried once."""
    found = names(SoundScores(sparsity=0.9))
    assert {"is-repeatable[prune]", "is-repeatable[supermask]", "frozen-weights-stay-frozen[supermask]"} <= found
    assert {"frozen-and-picklable", "traits-are-constant"} <= found
    assert "frozen-weights-stay-frozen[prune]" not in found


CASES = """
    import pytest
    from mutants_interface import Uncited, Unexplained
    from sound import SoundScores

    from pruneboard.testing import parametrize_with_checks

    PRUNERS = [SoundScores(sparsity=0.9), Uncited(sparsity=0.9)]
    WHY = {"cites-its-source": "it is a test", "shows-numbers": "the same"}

    @parametrize_with_checks(PRUNERS, tiers=["core"], processes=False)
    def test_core(pruner, check):
        if not check.check.trains:
            check(pruner)

    @parametrize_with_checks([Uncited(sparsity=0.9)], tiers=["advice"], expected_failures=WHY)
    def test_advice(pruner, check):
        if check.check.name in ("cites-its-source", "shows-numbers", "explains-its-options"):
            check(pruner)
        elif check.check.name == "runs-on-a-short-budget":
            pytest.skip("not wanted here")

    @parametrize_with_checks([Unexplained(sparsity=0.9)], tiers=["advice"], expected_failures={"cites-its-source": "-"})
    def test_strictly(pruner, check):
        if check.check.name == "cites-its-source":
            check(pruner)
"""


def test_the_checks_as_cases_of_pytest(pytester):
    """Cases are named by class and check; an expected failure is a strict xfail, and what cannot be tried a skip."""
    pytester.makepyfile(textwrap.dedent(CASES))
    found = pytester.runpytest_inprocess("-v", "-rA", "-p", "no:cacheprovider", "-o", "addopts=")
    text = found.stdout.str()
    assert "::test_core[SoundScores-frozen-and-picklable] PASSED" in text
    assert (
        "::test_core[SoundScores-is-repeatable[[]supermask[]]] PASSED".replace("[[]", "[").replace("[]]", "]") in text
    )
    assert "two-processes-agree" not in text
    assert "::test_advice[Uncited-cites-its-source] XFAIL" in text
    assert "::test_advice[Uncited-shows-numbers] SKIPPED" in text
    assert "it shows no diagnostics" in text
    assert "::test_strictly[Unexplained-cites-its-source] FAILED" in text
    outcomes = found.parseoutcomes()
    assert (outcomes["xfailed"], outcomes["failed"], outcomes["skipped"]) == (1, 1, 2)


def test_a_pruner_of_a_function_says_so():
    """A class that no other process can find is told so by the check of pickling and by those with processes."""

    @dataclass(frozen=True, kw_only=True)
    class Local(Sound):
        """Nowhere to be found (2017)."""

    pruner = Local(sparsity=0.9)
    checks = {bound.name: bound for bound in pruner_checks(pruner)}
    with pytest.raises(CheckFailedError, match=r"Local.*define the class at the top of a module"):
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

    def tried():
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
    [("if __name__ == '__main__':\n    tried()", "passed"), ("tried()", "what it does under `if __name__")],
)
def test_a_pruner_of_a_script(tmp_path, last, expected):
    """A class of the program itself is found by the processes if the program guards what it does, and else told so."""
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


def test_what_is_replaced_in_the_harness_is_put_back():
    """A function, its code, a constant, a method and an item of a table are noticed, and whole again afterwards."""
    before = (audit.audit, scores.kept_of.__code__, loop.CHECK_EVERY, loop.Losses.add, dict(optim._RULES))
    with referee.guarded() as replaced:
        audit.audit = print
        scores.kept_of.__code__ = (lambda n, sparsity: n).__code__
        loop.CHECK_EVERY = 0
        loop.Losses.add = print
        optim._RULES["sgd"] = print
    parts = ("experiment.audit.audit", "scores.kept_of", "training.loop.CHECK_EVERY", "training.loop.Losses.add")
    assert set(replaced) == {f"pruneboard.{part}" for part in (*parts, "training.optim._RULES")}
    assert before == (audit.audit, scores.kept_of.__code__, loop.CHECK_EVERY, loop.Losses.add, dict(optim._RULES))


def test_a_harness_that_is_left_alone_is_whole():
    """Building a pruner's training, which lets torch wrap our optimizer, is no change."""
    with referee.guarded() as replaced:
        next(iter(pruner_checks(Sound(sparsity=0.9))))(Sound(sparsity=0.9))
    assert not replaced


def test_a_lost_process_is_one_failure(tried):
    """A task that ends a process is answered, and the next one gets a pair that is alive."""
    assert all("a process ended" in answer.error for answer in tried.lost)
    assert tried.alive == (False, True)


@pytest.mark.slow
def test_a_device_is_tried_in_a_process_of_its_own():
    """What a check does on another kind of device is carried out apart, and its finding comes back as text."""
    assert pair.apart(engines.train_on, Sound(sparsity=0.9), "prune", "cpu").error is None
    assert "AuditError" in pair.apart(engines.train_on, OffByOne(sparsity=0.9), "prune", "cpu").error
    assert multiprocessing.active_children() == []
