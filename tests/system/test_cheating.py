"""A third-party distribution whose methods each break one rule: every one of its runs fails, and leaves a record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from environments import copied, layered

CHEATING = Path(__file__).parents[1] / "strangers" / "cheating"
SMALL = [
    *("--model", "test_resnet", "--limit-train", "142", "--epochs", "2", "--batch-size", "32"),
    *("--warmup-epochs", "0", "--sparsity", "0.9", "--quiet"),
]

IN_ONE_PROCESS = {
    "diagnostics": ("failed", "failed in diagnostics: RuntimeError: assign() is not valid here"),
    "in-place": ("invalid", "a weight or a gate changed during diagnostics at step 4"),
    "refill": ("invalid", "changed after hardening, at step 4"),
    "hook": ("invalid", "it left a hook on conv1.0.parametrizations.weight.original"),
    "sys-exit": ("failed", "failed in before_step: SystemExit: 0"),
    "os-exit": ("failed", "failed in before_step: RuntimeError: os._exit(0) was called"),
    "climb": ("invalid", "harden called validate() more than 16 times"),
    "weights": ("invalid", "harden changed conv1.0.parametrizations.weight.original"),
    "folder": ("invalid", "before_step changed the working directory"),
    "harness": ("invalid", "replaced pruneboard.training.loop.evaluate"),
    "record": ("failed", "seed must be"),
    "modes": ("invalid", "the gate of layer conv1.0 gives another weight in training than in evaluation"),
    "thread": ("invalid", "before_step left the thread"),
    "global-hook": ("invalid", "before_step changed torch's global hooks"),
    "denormals": ("invalid", "before_step changed torch's treatment of denormal numbers"),
    "onednn": ("invalid", "before_step changed torch's use of oneDNN"),
    "sigterm": ("invalid", "before_step changed the signal handlers"),
    "sparsity": ("invalid", "it changed its option sparsity"),
    "optimizer": ("invalid", "it changed the optimizer"),
    "two-steps": ("invalid", "it left a hook on the optimizer"),
    "layers": ("failed", "failed in before_step: TypeError: 'tuple' object"),
    "fold": ("invalid", "the gate of layer conv1.0 folds to another weight than the network was trained with"),
    "moving": ("invalid", "changed after hardening; every mask must be final there"),
    "secret": ("invalid", "changed after hardening, at step"),
    "early-harness": ("invalid", "gate or gate_optimizer replaced pruneboard.training.loop.recalibrate"),
    "early-weights": ("invalid", "gate or gate_optimizer changed the initial weights"),
    "early-settings": ("invalid", "gate or gate_optimizer changed torch's treatment of denormal numbers"),
    "late": ("invalid", "a weight or a gate changed after the last step"),
    "constructor": ("invalid", "replaced pruneboard.training.evaluate.Metrics.__init__"),
    "message": ("failed", "its message cannot be read: Unreadable"),
    "umask": ("invalid", "before_step changed the file mode mask"),
}
"""Method without its prefix -> status of its record, and a part of the message."""

SHOWN = {
    "paid-climb": "31 while hardening, charged as training",
    "declared-weights": "the method changes weights when it hardens, as it declares",
}
"""Method that does what it declares -> what its reader sees."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment with the distribution installed from a wheel."""
    made = layered(tmp_path_factory.mktemp("environment"))
    trees = tmp_path_factory.mktemp("trees")
    project = copied(CHEATING, trees / "cheating")
    made.output(["pip", "install", "--quiet", "--no-deps", "--no-build-isolation", str(project)], trees)
    return made


def command(method):
    """The arguments of a small run of the method."""
    return ["run", "--method", f"cheat-{method}", *SMALL, "--results", method]


@pytest.fixture(scope="module")
def answers(environment, tmp_path_factory):
    """The folder of the runs, and method -> exit code, output and errors; all runs are done by one process."""
    folder = tmp_path_factory.mktemp("work")
    named = (*IN_ONE_PROCESS, *SHOWN)
    *found, compared, last = environment.answers(
        folder, *map(command, named), ["compare", *SHOWN], ["run", "--method", "magnitude", *SMALL]
    )
    return folder, dict(zip(named, found, strict=True)) | {"compare": compared, "honest": last}


def lines(error):
    """The lines of standard error but the notes on the images."""
    return [line for line in error.splitlines() if not line.startswith("note: ")]


@pytest.mark.parametrize("method", IN_ONE_PROCESS)
def test_each_hole_is_closed(answers, method):
    """The run exits with 1 and one line, and its record, in the folder that was asked for, says why."""
    folder, found = answers
    status, message = IN_ONE_PROCESS[method]
    code, _, error = found[method]
    assert (code, len(lines(error))) == (1, 1), error
    (file,) = (folder / method).rglob("run.json")
    record = json.loads(file.read_text(encoding="utf-8"))
    assert (record["status"], record["method"]["distribution"]) == (status, "stranger_cheating"), record["error"]
    assert message in record["error"]["message"]


@pytest.mark.parametrize("method", SHOWN)
def test_what_is_declared_is_shown(answers, method):
    """A method that declares its validations and its writes is done, and a reader of the run or the table sees them."""
    _, found = answers
    code, out, error = found[method]
    assert code == 0, error
    assert SHOWN[method] in out + found["compare"][1]


def test_a_method_that_replaces_its_process_is_recorded(environment, tmp_path):
    """A process that ends with 0 before its run is over counts as a failed run."""
    done = environment.pruneboard(tmp_path, *command("exec"))
    assert (done.returncode, len(lines(done.stderr))) == (1, 1), done.stderr
    (file,) = tmp_path.rglob("run.json")
    assert json.loads(file.read_text(encoding="utf-8"))["status"] == "failed"


def test_honest_methods_are_not_affected(answers):
    """After all of these runs, a run of a built-in method in the same process is done."""
    code, _, error = answers[1]["honest"]
    assert code == 0, error
