"""Runs and sweeps on a user's own images: what is checked and said before the first step."""

from __future__ import annotations

from board_file_cases import FEW, write_board
from command_cases import assert_refused
from data_cases import LARGE, damage, write_tree
from pruneboard.cli import invoke

RUN = ["run", "--method", "magnitude", "--model", "test_resnet", "--sparsity", "0.5", "--epochs", "1"]
RUN += [
    "--batch-size",
    "8",
    "--norm-batch",
    "8",
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
    training = {"epochs": 1, "batch_size": 8, "norm_batch": 8, "image_size": 16, "warmup_epochs": 0}
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
