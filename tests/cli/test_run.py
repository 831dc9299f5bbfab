"""`pruneboard run`: refused arguments, exit codes, interruption, JSON output and the sources of values."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from command_cases import RUN, SMALL, assert_refused, swap
from pruneboard.cli import invoke
from pruneboard.cli.run import command, seed_list
from pruneboard.errors import UsageError
from pruneboard.spec import RECIPE_FIELDS, Recipe
from runs import folder


def images(root, classes=("cat", "dog"), splits=("train", "test"), count=40):
    """A folder of small random images, by split and class."""
    rng = np.random.default_rng(0)
    for split in splits:
        for name in classes:
            place = root / split / name
            place.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{index:03}.png")
    return root


@pytest.mark.parametrize(
    ("sparsity", "hint"),
    [("1.0", "in [0, 1)"), ("-0.1", "in [0, 1)"), ("90", "0.9"), ("abc", "such as 0.9"), ("nan", "in [0, 1)")],
)
def test_invalid_sparsities_are_refused(capfd, tmp_path, sparsity, hint):
    """A sparsity outside [0, 1) is refused in one line that says what is allowed."""
    assert_refused(capfd, tmp_path, swap(RUN, "--sparsity", sparsity), "sparsity", sparsity, hint)


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--method", "probmsk", ["probmsk", "did you mean probmask"]),
        ("--model", "resnet81", ["resnet81", "did you mean"]),
        ("--limit-train", "0", ["limit_train", "1 or more"]),
        ("--batch-size", "4000", ["4000"]),
    ],
)
def test_unknown_names_and_impossible_numbers_are_refused(capfd, tmp_path, flag, value, words):
    """An error for an unknown method or model suggests similar names; one for a number says what is allowed."""
    assert_refused(capfd, tmp_path, swap(RUN, flag, value), *words)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--dataset", "cifar11"], ["cifar11", "did you mean cifar10"]),
        (["--dataset", "cifar10", "--data-dir", "/nowhere"], ["/nowhere", "--download"]),
        (["--dataset", "folder", "--data-dir", "/nowhere"], ["/nowhere"]),
        (["--dataset", "folder"], ["--data-dir"]),
        (["--recipe", "digit"], ["digit", "did you mean digits"]),
        (["--recipe", "/nowhere/x.toml"], ["/nowhere/x.toml"]),
        (["--option", "prune_ta=0.5"], ["prune_ta", "did you mean prune_at"]),
        (["--option", "prune_at=2"], ["prune_at", "found 2"]),
        (["--option", "prune_at"], ["KEY=VALUE"]),
        (["--option", "allocation=some"], ["allocation", "global"]),
        (["--track", "supermask"], ["supermask", "prune"]),
        (["--zero", "3"], ["ZeRO", "3"]),
        (["--seeds", "x"], ["--seeds"]),
        (["--init", "/nowhere/w.safetensors"], ["/nowhere/w.safetensors"]),
        (["--image-size", "0"], ["image_size"]),
        (["--augment", "flip"], ["flip"]),
        (["--procs", "3"], ["3 processes"]),
        (["--no-such-flag"], ["--no-such-flag"]),
    ],
)
def test_invalid_flags_are_refused(capfd, tmp_path, extra, words):
    """Every invalid value is refused with exit code 2, in one line that names the value and what to do."""
    assert_refused(capfd, tmp_path, [*RUN, *extra], *words)


def test_a_missing_or_superfluous_sparsity_is_refused(capfd, tmp_path):
    """A pruner needs a sparsity, and the dense control takes none."""
    assert_refused(capfd, tmp_path, ["run", "--method", "magnitude", *SMALL], "--sparsity")
    assert_refused(capfd, tmp_path, swap(RUN, "--method", "dense"), "leave --sparsity out")


def test_broken_image_folders_are_refused(capfd, tmp_path):
    """An empty class folder, a corrupt image and a missing test split are each reported with their path."""

    def arguments(name):
        return [*RUN, "--dataset", "folder", "--data-dir", str(tmp_path / name), "--image-size", "16"]

    images(tmp_path / "empty")
    (tmp_path / "empty" / "train" / "fish").mkdir()
    (tmp_path / "empty" / "test" / "fish").mkdir()
    assert_refused(capfd, tmp_path, arguments("empty"), "fish", "no image")
    bad = images(tmp_path / "bad") / "train" / "cat" / "003.png"
    bad.write_bytes(bad.read_bytes()[:60])
    assert_refused(capfd, tmp_path, arguments("bad"), str(bad))
    images(tmp_path / "half", splits=("train",))
    assert_refused(capfd, tmp_path, arguments("half"), "test")


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_a_read_only_results_folder_is_refused(capfd, tmp_path):
    """A results folder that cannot be written is refused before training."""
    (tmp_path / "locked").mkdir(mode=0o500)
    assert invoke([*RUN, "--results", str(tmp_path / "locked")]) == 2
    assert "locked" in capfd.readouterr().err


def test_a_file_as_results_folder_is_refused(capfd, tmp_path):
    """A file in place of the results folder is refused in one line, and is not changed."""
    (tmp_path / "file").write_text("mine")
    assert invoke([*RUN, "--results", str(tmp_path / "file")]) == 2
    assert "file" in capfd.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_a_failed_run_exits_with_1(capfd, tmp_path):
    """A run that diverges exits with 1, prints one line, and writes a record with the failure."""
    assert invoke([*swap(RUN, "--epochs", "4"), "--lr", "1e38", "--clip", "0", "--results", str(tmp_path)]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert "lower the learning rate" in err
    assert json.loads((folder(tmp_path) / "run.json").read_text())["status"] == "diverged"


def test_a_failed_run_prints_its_record_as_json(capfd, tmp_path):
    """With `--json`, a failed run prints one document too: the record with the failure."""
    diverging = [*swap(RUN, "--epochs", "4"), "--lr", "1e38", "--clip", "0", "--json", "--results", str(tmp_path)]
    assert invoke(diverging) == 1
    made = json.loads(capfd.readouterr().out)
    assert made["status"] == "diverged"
    assert made == json.loads((folder(tmp_path) / "run.json").read_text())


def test_json_is_one_document_on_stdout(capfd, tmp_path):
    """`run --json` prints the record and nothing else on standard output, progress on standard error."""
    arguments = [a for a in RUN if a != "--quiet"]
    assert invoke([*arguments, "--json", "--results", str(tmp_path)]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == json.loads((folder(tmp_path) / "run.json").read_text())
    assert "epoch" in err


def test_a_finished_run_is_not_repeated(capfd, tmp_path):
    """Running the same command again exits with 0, prints the summary, and trains nothing."""
    for _ in range(2):
        assert invoke([*RUN, "--results", str(tmp_path)]) == 0
        assert "top-1" in capfd.readouterr().out
    assert len(list(tmp_path.rglob("*.json"))) == 1


def test_several_seeds_are_run_and_compared(capfd, tmp_path):
    """`--seeds 2` runs seeds 0 and 1; `compare` then prints both methods and writes all text formats and the page."""
    assert invoke([*RUN, "--seeds", "2", "--results", str(tmp_path)]) == 0
    dense = [a for a in swap(RUN, "--method", "dense") if a not in {"--sparsity", "0.9"}]
    assert invoke([*dense, "--seeds", "0,1", "--results", str(tmp_path)]) == 0
    capfd.readouterr()
    assert invoke(["compare", str(tmp_path)]) == 0
    out = capfd.readouterr().out
    assert "magnitude" in out
    assert "dense" in out
    assert {p.suffix for p in (tmp_path / "leaderboard").glob("*.*")} == {".html", ".md", ".tex", ".csv", ".json"}
    assert invoke(["compare", str(tmp_path), "--json", "--format", "none"]) == 0
    assert json.loads(capfd.readouterr().out)


def test_dry_run_prints_the_source_of_every_value(capfd, tmp_path):
    """`--dry-run` prints every value with its source (flag, file or recipe, in this order), and writes nothing."""
    config = tmp_path / "run.toml"
    config.write_text(
        'method = "magnitude"\nmodel = "test_resnet"\nlr = 0.02\nbatch_size = 64\n[options]\nprune_at = 0.25\n'
    )
    results = tmp_path / "results"
    arguments = ["run", "--config", str(config), "--batch-size", "32", "--sparsity", "0.5", "--results", str(results)]
    assert invoke([*arguments, "--dry-run", "--json"]) == 0
    values = json.loads(capfd.readouterr().out)
    assert values["batch_size"] == {"value": 32, "source": "flag"}
    assert values["lr"] == {"value": 0.02, "source": "config"}
    assert values["momentum"]["source"] == "recipe digits"
    assert values["option prune_at"] == {"value": 0.25, "source": "config"}
    assert values["option allocation"]["source"] == "default of the method"
    assert not results.exists()


def test_an_unknown_key_of_a_config_file_is_refused(capfd, tmp_path):
    """An error for a key that is not a flag suggests the most similar one."""
    config = tmp_path / "run.toml"
    config.write_text("epoch = 3\n")
    assert_refused(capfd, tmp_path, [*RUN, "--config", str(config)], "epoch", "did you mean epochs")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 75, marks=pytest.mark.slow)]
)
def test_signals_interrupt_a_run(tmp_path, number, code):
    """SIGTERM exits with 75 and Ctrl-C with 130; the record says interrupted, and the same command then succeeds."""
    arguments = [a for a in swap(RUN, "--epochs", "400") if a != "--quiet"]
    command = [sys.executable, "-m", "pruneboard", *arguments, "--results", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "epoch" in line:
                break
        process.send_signal(number)
        process.stderr.read()
        assert process.wait(60) == code
    assert json.loads((folder(tmp_path) / "run.json").read_text())["status"] == "interrupted"
    assert invoke([*swap(RUN, "--epochs", "1"), "--results", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        *(("1", [0]), ("3", [0, 1, 2]), ("3,7", [3, 7]), ("5,", None), ("0", None), ("-2", None)),
        ("20260101", None),
    ],
)
def test_seeds_are_a_count_or_a_list(seeds, expected):
    """`--seeds` takes a count of 1 or more that fits into memory or a list of integers, and replaces `--seed`."""
    if expected is None:
        with pytest.raises(UsageError, match="--seeds is a count"):
            seed_list(seeds, 9)
    else:
        assert seed_list(seeds, 9) == expected
    assert seed_list(None, 9) == [9]


def test_every_recipe_field_has_a_flag_with_help():
    """Each field of `Recipe` is a flag whose help is the field's description."""
    options = {option.name: option for option in command.params}
    for field in dataclasses.fields(Recipe):
        if field.name in RECIPE_FIELDS:
            assert len(options[field.name].help) > len("Recipe: ") + 10, field.name
    assert options["lr"].opts == ["--lr"]
    assert options["nesterov"].secondary_opts == ["--no-nesterov"]
