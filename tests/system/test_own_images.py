"""Runs and sweeps on a user's own images: what is checked and said before the first step."""

from __future__ import annotations

import json

import pytest

from board_file_cases import FEW, write_board
from command_cases import assert_refused
from data_cases import LARGE, SMALL, damage, write_tree
from pruneboard.cli import invoke
from pruneboard.records import schema

RUN = ["run", "--method", "magnitude", "--model", "test_resnet", "--sparsity", "0.5", "--epochs", "1"]
RUN += [
    "--batch-size",
    "4",
    "--norm-batch",
    "4",
    "--warmup-epochs",
    "0",
    "--image-size",
    "16",
    "--quiet",
    "--dataset",
    "folder",
]


def board_of(place, side, **changes):
    """Write a board file for the tree of `write_tree`."""
    data = {"name": "folder", "train": 18, "test": 9, "classes": 3, "side": side}
    training = {"epochs": 1, "batch_size": 4, "norm_batch": 4, "image_size": 16, "warmup_epochs": 0}
    values = FEW | {"data": data, "training": training, "seeds": 1, "methods": [{"name": "magnitude"}]} | changes
    return str(write_board(place, values | {"tracks": {"prune": {"sparsities": [0.5]}}}, "own"))


def test_a_damaged_image_is_refused_before_training_on_request(tmp_path, capfd):
    """With `--check-images`, a run names an image that its header does not show to be damaged, and writes nothing."""
    root = write_tree(tmp_path / "tree", LARGE)
    file = root / "test" / "dog" / "01.png"
    damage(file)
    arguments = [*RUN, "--data-dir", str(root)]
    assert_refused(capfd, tmp_path, [*arguments, "--check-images"], f"cannot decode {file}")


def test_a_sweep_checks_the_images_once(tmp_path, capfd):
    """With `--check-images`, a sweep refuses a damaged image, and the runs that it plans do not check again."""
    root = write_tree(tmp_path / "tree", LARGE)
    arguments = ["sweep", board_of(tmp_path, LARGE), "--data-dir", str(root), "--check-images"]
    assert invoke([*arguments, "--plan-only", "--results", str(tmp_path / "results")]) == 0
    assert "--check-images" not in capfd.readouterr().out
    damage(root / "test" / "dog" / "01.png")
    assert_refused(capfd, tmp_path, arguments, "cannot decode", "01.png")


def test_files_that_are_left_out_are_said_and_recorded(tmp_path, capfd):
    """A quiet run says once for all seeds how many files it left out; records list them, hashes and boards do not."""
    root = write_tree(tmp_path / "tree", SMALL)
    arguments = [*RUN, "--data-dir", str(root), "--seeds", "2"]
    assert invoke([*arguments, "--results", str(tmp_path / "clean")]) == 0
    err = capfd.readouterr().err
    assert "left out" not in err
    assert err.count("note: images of up to 20 px are reduced to 16 px for training: --image-size 20 keeps") == 1
    for number in range(4):
        (root / "train" / "cat" / f"{number}.gif").touch()
    for results in ("cluttered", "cluttered"):
        assert invoke([*arguments, "--results", str(tmp_path / results)]) == 0
        assert capfd.readouterr().err.count("note: 4 files are left out: 4 .gif; ") == 1
    clean, cluttered = (
        {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / name).rglob("run.json")}
        for name in ("clean", "cluttered")
    )
    assert clean.keys() == cluttered.keys()
    for name, record in cluttered.items():
        assert record["data"].pop("left_out") == {".gif": 4}
        assert schema.canonical(record) == schema.canonical(clean[name])
    logs = [path.read_text() for path in (tmp_path / "cluttered").rglob("log.txt")]
    assert all("4 files are left out" in log for log in logs)


@pytest.mark.parametrize("extra", [["--plan-only"], pytest.param([], marks=pytest.mark.slow)])
def test_a_sweep_says_once_what_is_left_out(tmp_path, capfd, extra):
    """A quiet sweep, executed or only listed, prints one note for all its runs."""
    root = write_tree(tmp_path / "tree", SMALL)
    (root / "test" / "cat" / "a.gif").touch()
    arguments = ["sweep", board_of(tmp_path, SMALL, seeds=2), "--data-dir", str(root), "--quiet", *extra]
    assert invoke([*arguments, "--results", str(tmp_path / "results")]) == 0
    assert capfd.readouterr().err.count("1 file is left out: 1 .gif; ") == 1


def test_a_dry_run_says_what_is_left_out(tmp_path, capfd):
    """`run --dry-run --json` prints the note on standard error only."""
    root = write_tree(tmp_path / "tree", SMALL)
    (root / "test" / "cat" / "a.gif").touch()
    assert invoke([*RUN, "--data-dir", str(root), "--dry-run", "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)
    assert err.startswith("note: 1 file is left out: 1 .gif; ")


def test_a_limit_of_unbalanced_classes_is_said(tmp_path, capfd):
    """A quiet run with `--limit-train` says how the share of a class changes."""
    root = write_tree(tmp_path / "tree", SMALL, each=20)
    for file in sorted((root / "train" / "emu").iterdir())[4:]:
        file.unlink()
    assert invoke([*RUN, "--data-dir", str(root), "--limit-train", "12", "--results", str(tmp_path / "results")]) == 0
    assert "note: --limit-train 12 keeps equally many images" in capfd.readouterr().err
