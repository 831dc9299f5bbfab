"""The examples of docs/boards.md work as described."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torchvision.datasets

from project import blocks
from pruneboard.data import open_dataset
from pruneboard.sweeps import board_file

PAGE = "docs/boards.md"


def test_the_example_of_a_board_file_is_valid(tmp_path):
    """The annotated board file of the page loads with the values that its comments explain."""
    (example,) = (block for block in blocks("toml", PAGE) if "[[methods]]" in block)
    path = tmp_path / "mine.toml"
    path.write_text(example)
    board = board_file.load_board(path)
    assert (board.name, board.seeds, board.data.limit_train) == ("mine", (0, 1, 2, 3, 4, 5), 10_000)
    assert [method.name for method in board.methods] == ["dense", "probmask", "edge-popup"]
    assert board.methods[1].tuning == board_file.MethodTuning(trials=3, source="my-search")


def write_batches(folder):
    """Write files in the format of CIFAR-10, with two images in each batch."""
    folder.mkdir(parents=True)
    names = ["airplane", "automobile"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    draws = np.random.default_rng(0)
    for batch in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]:
        pixels = draws.integers(0, 256, (2, 3072), dtype=np.uint8)
        content = {"data": pixels, "labels": [0, 1], "filenames": [f"a_{batch}.png", f"b_{batch}.png"]}
        (folder / batch).write_bytes(pickle.dumps(content))


def test_the_script_converts_cifar_to_image_files(tmp_path, monkeypatch):
    """The script of the page writes every image under its own name with the same pixels."""
    monkeypatch.chdir(tmp_path)
    # The real class fetches the files and compares their checksums.
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "__init__", lambda self, root, *, download: None)
    write_batches(Path("data", "cifar-10-batches-py"))
    (script,) = blocks("python", PAGE)
    exec(compile(script, PAGE, "exec"), {})
    opened = open_dataset(
        "folder",
        data_dir="pictures",
        download=False,
        image_size=32,
        val_fraction=0.2,
        limit_train=None,
        split_seed=0,
    )
    assert opened.classes == ("airplane", "automobile")
    assert (len(opened.train) + len(opened.validation), len(opened.test)) == (10, 2)
    content = pickle.loads(Path("data", "cifar-10-batches-py", "test_batch").read_bytes())
    assert (opened.test.images.stored.numpy().reshape(2, -1) == content["data"]).all()
