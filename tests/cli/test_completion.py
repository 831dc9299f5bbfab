"""`pruneboard completion`: the scripts, and the words that they complete."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pruneboard.cli import invoke


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_printed_for_each_shell(capfd, shell):
    """`completion SHELL` prints a script that calls pruneboard for completions."""
    assert invoke(["completion", shell]) == 0
    assert "_PRUNEBOARD_COMPLETE" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected", "others"),
    [
        ("pruneboard com", {"compare", "completion"}, {"run"}),
        ("pruneboard run --method mag", {"magnitude"}, {"random"}),
        ("pruneboard run --dataset cifar", {"cifar10", "cifar100"}, {"digits"}),
        ("pruneboard run --recipe dig", {"digits"}, {"cifar"}),
        ("pruneboard check ra", {"random"}, {"magnitude"}),
        ("pruneboard list ", {"methods", "recipes", "datasets", "models"}, set()),
    ],
)
def test_words_are_completed(words, expected, others):
    """The program answers the bash script with commands, methods, data sets and recipes that match the last word."""
    request = {"_PRUNEBOARD_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    command = [sys.executable, "-m", "pruneboard"]
    done = subprocess.run(command, env=os.environ | request, capture_output=True, text=True, check=True)
    found = {line.partition(",")[2] for line in done.stdout.splitlines()}
    assert expected <= found
    assert not others & found
