"""A third-party distribution whose methods each break one rule: every one of its runs fails, and leaves a record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from environments import copied, layered

CHEATING = Path(__file__).parents[1] / "strangers" / "cheating"
SMALL = [
    *("--model", "test_vit", "--limit-train", "142", "--epochs", "2", "--batch-size", "32"),
    *("--warmup-epochs", "0", "--sparsity", "0.9", "--quiet"),
]

IN_ONE_PROCESS = {
    "diagnostics": ("failed", "failed in diagnostics: RuntimeError: assign() is not valid here"),
    "in-place": ("invalid", "a weight or a gate changed during diagnostics at step 4"),
    "refill": ("invalid", "changed after hardening, at step 4"),
    "hook": ("invalid", "it left a hook on patch_embed.proj.parametrizations.weight.original"),
    "sys-exit": ("failed", "failed in before_step: SystemExit: 0"),
    "os-exit": ("failed", "failed in before_step: RuntimeError: os._exit(0) was called"),
    "climb": ("invalid", "harden called validate() more than 16 times"),
    "weights": ("invalid", "harden changed patch_embed.proj.parametrizations.weight.original"),
    "folder": ("invalid", "before_step changed the working directory"),
    "harness": ("invalid", "replaced pruneboard.training.loop.evaluate"),
    "record": ("failed", "seed must be"),
    "modes": ("invalid", "the gate of layer patch_embed.proj gives another weight in training than in evaluation"),
    "thread": ("invalid", "before_step left the thread"),
    "global-hook": ("invalid", "before_step changed torch's global hooks"),
    "denormals": ("invalid", "before_step changed torch's treatment of denormal numbers"),
    "onednn": ("invalid", "before_step changed torch's use of oneDNN"),
    "sigterm": ("invalid", "before_step changed the signal handlers"),
    "sparsity": ("invalid", "it changed its option sparsity"),
    "optimizer": ("invalid", "it changed the optimizer"),
    "two-steps": ("invalid", "it left a hook on the optimizer"),
    "layers": ("failed", "failed in before_step: TypeError: 'tuple' object"),
    "fold": ("invalid", "the gate of layer patch_embed.proj folds to another weight than the network was trained with"),
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


def lines(error):
    """The lines of standard error but the notes on the images."""
    return [line for line in error.splitlines() if not line.startswith("note: ")]


def problem(method, folder, code, error):
    """What is wrong with the end of a run that breaks a rule, or None: one line, exit code 1, and a record."""
    (file,) = (folder / method).rglob("run.json")
    record = json.loads(file.read_text(encoding="utf-8"))
    status, message = IN_ONE_PROCESS[method]
    found = (code, len(lines(error)), record["status"], record["method"]["distribution"])
    if found != (1, 1, status, "stranger_cheating") or message not in record["error"]["message"]:
        return found, error, record["error"]
    return None


def test_each_hole_is_closed(environment, tmp_path):
    """Each run that breaks a rule exits with 1 and one line, and its record, in the folder asked for, says why.

    Methods that declare what they do are done, and a reader of the run or the table sees it. After all of these runs,
    a run of a built-in method in the same process is done.
    """
    named = (*IN_ONE_PROCESS, *SHOWN)
    honest = ["run", "--method", "magnitude", *SMALL]
    answers = environment.answers(tmp_path, *map(command, named), ["compare", *SHOWN], honest)
    *found, (_, table, _), (code, _, error) = answers
    assert code == 0, error
    ended = dict(zip(named, found, strict=True))
    problems = {method: problem(method, tmp_path, ended[method][0], ended[method][2]) for method in IN_ONE_PROCESS}
    assert {method: what for method, what in problems.items() if what} == {}
    for method, text in SHOWN.items():
        code, out, error = ended[method]
        assert code == 0, error
        assert text in out + table


def test_a_method_that_replaces_its_process_is_recorded(environment, tmp_path):
    """A process that ends with 0 before its run is over counts as a failed run."""
    done = environment.pruneboard(tmp_path, *command("exec"))
    assert (done.returncode, len(lines(done.stderr))) == (1, 1), done.stderr
    (file,) = tmp_path.rglob("run.json")
    assert json.loads(file.read_text(encoding="utf-8"))["status"] == "failed"
