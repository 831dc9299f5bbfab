"""Command lines of a small run, and the check that a wrong one is refused in one line."""

from __future__ import annotations

import os
import subprocess
import sys

from pruneboard.cli import invoke

SMALL = ["--model", "test_resnet", "--epochs", "1", "--batch-size", "16", "--limit-train", "71", "--warmup-epochs", "0"]
RUN = ["run", "--method", "magnitude", *SMALL, "--sparsity", "0.9", "--quiet"]


def swap(arguments, flag, value):
    """The arguments with the value of one flag replaced."""
    place = arguments.index(flag) + 1
    return [*arguments[:place], value, *arguments[place + 1 :]]


def assert_refused(capfd, tmp_path, arguments, *words, code=2):
    """Assert one error line with these words, the exit code, and that no file is left behind."""
    results = tmp_path / "results"
    assert invoke([*arguments, "--results", str(results)]) == code
    out, err = capfd.readouterr()
    lines = [line for line in err.splitlines() if line.startswith(("error:", "Error:"))]
    assert out == ""
    assert len(lines) == 1
    for word in words:
        assert word in lines[0]
    assert "Traceback" not in err
    assert not results.exists() or not list(results.rglob("*"))


def shell(script, **settings):
    """Run a bash script in which `$P` is the program, and return its exit code, standard output and standard error."""
    environment = {**os.environ, "P": f"{sys.executable} -m pruneboard"}
    settings = {"env": environment, "capture_output": True, "text": True} | settings
    done = subprocess.run(["bash", "-c", script], check=False, **settings)
    return done.returncode, done.stdout, done.stderr
