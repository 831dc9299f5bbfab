"""Results folders that can no longer be written when the training is over."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from command_cases import RUN
from pruneboard.cli import invoke
from pruneboard.errors import RunError
from pruneboard.experiment import rescue
from pruneboard.records import store
from runs import folder, run

FILES = {store.RUN, store.WEIGHTS, store.MASK}
WITHOUT_TIMES = ("sparsity", "metrics", "mask_sha256", "weights_sha256", "hash")


@pytest.fixture
def refuse(monkeypatch):
    """Let the system refuse to write files of some names below a folder."""

    def start(results, names):
        replace = os.replace

        def refusing(source, target):
            if Path(target).name in names and results in Path(target).parents:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            replace(source, target)

        monkeypatch.setattr(os, "replace", refusing)

    return start


@pytest.mark.parametrize(
    "names",
    [FILES, *(pytest.param({name}, marks=pytest.mark.slow) for name in (store.WEIGHTS, store.MASK)), {store.RUN}],
)
def test_a_run_that_its_folder_refuses_is_saved_beside_it(tmp_path, refuse, names):
    """The run fails, its network and record are in a folder that the message names, and `merge` adds them."""
    results = tmp_path / "results"
    expected = run(tmp_path / "honest")
    refuse(results, names)
    with pytest.raises(RunError, match="Read-only file system; the trained network and its record are saved") as caught:
        run(results)
    (rescued,) = tmp_path.glob("results-rescued-*")
    assert f" in {rescued}: once {results} can be written, run pruneboard merge" in str(caught.value)
    assert {path.name for path in folder(rescued).iterdir()} == FILES
    found = store.read(folder(rescued) / store.RUN)
    assert [found[key] for key in WITHOUT_TIMES] == [expected[key] for key in WITHOUT_TIMES]
    refuse(tmp_path / "none", ())
    assert invoke(["merge", str(rescued), "--into", str(tmp_path / "merged")]) == 0
    assert store.read(folder(tmp_path / "merged") / store.RUN) == found
    assert invoke(["verify", str(folder(tmp_path / "merged"))]) == 0


def test_the_command_line_says_it_in_one_line(tmp_path, refuse, capfd):
    """The exit code is that of a failed run, and no record claims anything else."""
    results = tmp_path / "results"
    refuse(results, FILES)
    assert invoke([*RUN, "--results", str(results)]) == 1
    (line,) = [text for text in capfd.readouterr().err.splitlines() if not text.startswith("note: ")]
    assert line.startswith("error: cannot write ")
    assert line.count("Read-only file system") == 2, "of the network, and of the record of this failure"
    assert not list(results.rglob("run.json"))


def test_a_run_that_no_folder_takes_is_a_failed_run(tmp_path, refuse, monkeypatch):
    """If no other folder can be written, the message says that the network is lost."""
    monkeypatch.setattr(rescue, "_places", lambda results: [str(tmp_path / "missing")])
    refuse(tmp_path, {store.WEIGHTS})
    with pytest.raises(RunError, match="could not be saved in another folder either"):
        run(tmp_path)
    assert store.read(folder(tmp_path) / store.RUN)["status"] == "failed"


def test_a_training_whose_last_checkpoint_is_refused_is_not_lost(tmp_path, refuse):
    """Also if the folder cannot be written from the last epoch on, the run ends and is saved elsewhere."""
    results = tmp_path / "results"
    refuse(results, {*FILES, "step-000000008.safetensors"})
    with pytest.raises(RunError, match="the trained network and its record are saved in"):
        run(results)


def test_a_checkpoint_that_is_refused_before_the_end_fails_the_run(tmp_path, refuse):
    """Nothing is trained for hours that could not be resumed."""
    refuse(tmp_path, {"step-000000004.safetensors"})
    with pytest.raises(RunError, match=r"step-000000004\.safetensors: Read-only file system"):
        run(tmp_path)
