"""Messages in records contain none of the user's own folders, and are otherwise unchanged."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pruneboard import RunSpec
from pruneboard.experiment.outcome import _without_paths


def cleaned(message, results="results", data_dir=None):
    """The message as the record of a run with these folders contains it."""
    spec = RunSpec(method="magnitude", model="test_resnet", results=str(results), data_dir=data_dir)
    return _without_paths(message, SimpleNamespace(spec=spec))


@pytest.mark.parametrize("results", ["e", "loss", "step", "l", "at", ".", "/", "./"])
def test_words_are_not_changed(results):
    """A results folder whose name is a word, or part of one, of the message leaves the message unchanged."""
    message = "the loss is nan at step 9: lower the learning rate (--lr)"
    assert cleaned(message, results) == message


@pytest.mark.parametrize("results", ["/mnt/out", "/mnt/out/", "out/runs", "./out/runs"])
def test_whole_paths_are_replaced(results):
    """A folder is replaced alone, in quotes, and at the head of a longer path."""
    path = str(results).rstrip("/")
    message = f"cannot write '{path}/a/run.json' in {path}: see {path}."
    assert cleaned(message, results) == "cannot write 'RESULTS/a/run.json' in RESULTS: see RESULTS."


def test_longer_names_and_deeper_folders_are_not_replaced():
    """Neither a sibling whose name starts alike nor a folder of the same name elsewhere is the user's folder."""
    message = "/mnt/out-2/x, /mnt/outside, /mnt/out.bak, /srv/mnt/out and ../mnt/out"
    assert cleaned(message, "/mnt/out") == message


def test_a_relative_folder_is_found_by_its_absolute_path(tmp_path, monkeypatch):
    """A message with the absolute path, or the path without links, of a relative folder is cleaned too."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    message = f"{tmp_path}/link/a, {tmp_path}/real/a, link/a"
    assert cleaned(message, "link") == "RESULTS/a, RESULTS/a, RESULTS/a"


def test_the_longest_folder_wins(monkeypatch):
    """In nested folders each path gets the name of the innermost one; the home folder is `~`."""
    monkeypatch.setenv("HOME", "/home/me")
    message = "/home/me/x /home/me/data/x /home/me/data/out/x /home/meter"
    assert cleaned(message, "/home/me/data/out", "/home/me/data") == "~/x DATA_DIR/x RESULTS/x /home/meter"
