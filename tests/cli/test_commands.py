"""The command line as a person meets it: one clear line, the right exit code, nothing half-written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from pruneboard import cli as cli_package
from pruneboard.cli import COMMANDS, invoke, load_command
from runs import folder

SMALL = ["--model", "test_resnet", "--epochs", "1", "--batch-size", "32", "--limit-train", "71", "--warmup-epochs", "0"]
RUN = ["run", "--method", "magnitude", *SMALL, "--sparsity", "0.9", "--quiet"]


def swap(arguments, flag, value):
    """The arguments with the value of one flag replaced."""
    place = arguments.index(flag) + 1
    return [*arguments[:place], value, *arguments[place + 1 :]]


def images(root, classes=("cat", "dog"), splits=("train", "test"), count=40):
    """A folder tree of small random pictures."""
    rng = np.random.default_rng(0)
    for split in splits:
        for name in classes:
            place = root / split / name
            place.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{index:03}.png")
    return root


def refused(capfd, tmp_path, arguments, *words, code=2):
    """Assert one error line with these words, that exit code, and no file left behind."""
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


@pytest.mark.parametrize(
    ("sparsity", "hint"),
    [("1.0", "in [0, 1)"), ("-0.1", "in [0, 1)"), ("90", "0.9"), ("abc", "such as 0.9"), ("nan", "in [0, 1)")],
)
def test_impossible_sparsities(capfd, tmp_path, sparsity, hint):
    """A sparsity outside [0, 1) is refused in one line that says what to write."""
    refused(capfd, tmp_path, swap(RUN, "--sparsity", sparsity), "sparsity", sparsity, hint)


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--method", "probmsk", ["probmsk", "did you mean probmask"]),
        ("--model", "resnet81", ["resnet81", "did you mean"]),
        ("--limit-train", "0", ["limit_train", "1 or more"]),
        ("--batch-size", "4000", ["4000"]),
    ],
)
def test_names_and_numbers_that_do_not_exist(capfd, tmp_path, flag, value, words):
    """An unknown method or model gets the nearest names, an impossible number what is allowed."""
    refused(capfd, tmp_path, swap(RUN, flag, value), *words)


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
def test_wrong_flags(capfd, tmp_path, extra, words):
    """Every wrong value is refused with exit code 2, in one line that names it and what to do."""
    refused(capfd, tmp_path, [*RUN, *extra], *words)


def test_missing_sparsity_and_superfluous_one(capfd, tmp_path):
    """A pruner without a sparsity is refused, and so is the dense control with one."""
    refused(capfd, tmp_path, ["run", "--method", "magnitude", *SMALL], "--sparsity")
    refused(capfd, tmp_path, swap(RUN, "--method", "dense"), "leave --sparsity out")


def test_broken_folders_of_images(capfd, tmp_path):
    """An empty class folder, a corrupt image and a missing test split are each named with their path."""

    def load(name):
        return [*RUN, "--dataset", "folder", "--data-dir", str(tmp_path / name), "--image-size", "16"]

    images(tmp_path / "empty")
    (tmp_path / "empty" / "train" / "fish").mkdir()
    (tmp_path / "empty" / "test" / "fish").mkdir()
    refused(capfd, tmp_path, load("empty"), "fish", "no image")
    bad = images(tmp_path / "bad") / "train" / "cat" / "003.png"
    bad.write_bytes(bad.read_bytes()[:60])
    refused(capfd, tmp_path, load("bad"), str(bad))
    images(tmp_path / "half", splits=("train",))
    refused(capfd, tmp_path, load("half"), "test")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_results(capfd, tmp_path):
    """A results folder that cannot be written is refused before anything is trained."""
    (tmp_path / "locked").mkdir(mode=0o500)
    assert invoke([*RUN, "--results", str(tmp_path / "locked")]) == 2
    assert "locked" in capfd.readouterr().err


def test_results_in_the_way(capfd, tmp_path):
    """A file where the results folder should be is refused in one line, and left alone."""
    (tmp_path / "file").write_text("mine")
    assert invoke([*RUN, "--results", str(tmp_path / "file")]) == 2
    assert "file" in capfd.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_failed_run_ends_with_one(capfd, tmp_path):
    """A run that diverges ends with exit code 1, one line, and a record that names the failure."""
    assert invoke([*swap(RUN, "--epochs", "4"), "--lr", "1e38", "--clip", "0", "--results", str(tmp_path)]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert "lower the learning rate" in err
    assert json.loads((folder(tmp_path) / "run.json").read_text())["status"] == "diverged"


def test_failed_run_as_json_is_its_record(capfd, tmp_path):
    """With `--json` a failed run still prints one document: the record that says how it failed."""
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


def test_done_already_is_success(capfd, tmp_path):
    """The same command again is exit code 0, prints the summary, and trains nothing."""
    for _ in range(2):
        assert invoke([*RUN, "--results", str(tmp_path)]) == 0
        assert "top-1" in capfd.readouterr().out
    assert len(list(tmp_path.rglob("*.json"))) == 1


def test_several_seeds_and_compare(capfd, tmp_path):
    """`--seeds 2` runs 0 and 1; `compare` then shows both methods and writes Markdown, CSV and JSON."""
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


def test_show_and_nothing_found(capfd, tmp_path):
    """`show` prints a run's page; `compare` and `show` end with 4 where there is no record."""
    assert invoke([*RUN, "--results", str(tmp_path / "r")]) == 0
    assert invoke(["show", str(folder(tmp_path / "r"))]) == 0
    assert "conv1" in capfd.readouterr().out
    assert invoke(["compare", str(tmp_path / "nothing")]) == 4
    assert invoke(["show", str(tmp_path)]) == 4


def test_dry_run_says_where_values_come_from(capfd, tmp_path):
    """`--dry-run` prints every value with its source, flag over file over recipe, and writes nothing."""
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


def test_config_with_an_unknown_key(capfd, tmp_path):
    """A key that no flag has is refused with the nearest one."""
    config = tmp_path / "run.toml"
    config.write_text("epoch = 3\n")
    refused(capfd, tmp_path, [*RUN, "--config", str(config)], "epoch", "did you mean epochs")


def test_lists(capfd):
    """`list` names methods with their distribution, and recipes, data sets and models on demand."""
    assert invoke(["list", "--json"]) == 0
    methods = {row["method"]: row for row in json.loads(capfd.readouterr().out)}
    assert methods["probmask"]["distribution"] == "pruneboard"
    for kind, word in [("recipes", "cifar"), ("datasets", "imagenet"), ("models", "resnet32_cifar")]:
        assert invoke(["list", kind]) == 0
        assert word in capfd.readouterr().out


def test_list_check_is_for_methods(capfd):
    """`list --check` finds every built-in method usable, and is refused for what is not imported."""
    assert invoke(["list", "--check", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    assert [row["problem"] for row in rows if row["distribution"] == "pruneboard"] == [None] * len(rows)
    assert invoke(["list", "recipes", "--check"]) == 2
    assert "leave it out to list recipes" in capfd.readouterr().err


def test_doctor_finds_this_machine_fit(capfd, tmp_path):
    """`doctor` trains two steps, loads every plugin, and ends with 0 where a run works."""
    assert invoke(["doctor", "--json", "--results", str(tmp_path / "r")]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["ok"]
    assert {"deepspeed engine", "method probmask"} <= {f["what"] for f in found["findings"] if f["status"] == "ok"}
    assert not (tmp_path / "r").exists()


def test_doctor_names_what_is_wrong(capfd, tmp_path):
    """`doctor` ends with 1 and the reason where the results folder is a file."""
    (tmp_path / "file").touch()
    assert invoke(["doctor", "--json", "--results", str(tmp_path / "file")]) == 1
    wrong = [f for f in json.loads(capfd.readouterr().out)["findings"] if f["status"] == "wrong"]
    assert [f["what"] for f in wrong] == ["results folder"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(capfd, shell):
    """`completion SHELL` prints a script that asks pruneboard for its commands."""
    assert invoke(["completion", shell]) == 0
    assert "_PRUNEBOARD_COMPLETE" in capfd.readouterr().out


def test_version_and_help(capfd):
    """`--version` prints the installed version, `--help` the commands."""
    assert invoke(["--version"]) == 0
    assert "pruneboard" in capfd.readouterr().out
    assert invoke(["--help"]) == 0
    out = capfd.readouterr().out
    assert all(name in out for name in ("run", "compare", "list", "show", "doctor", "completion"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_signals_leave_an_interrupted_record(tmp_path, number, code):
    """SIGTERM ends with 75 and Ctrl-C with 130; the record says interrupted, and the same command runs again."""
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


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_each_says_of_itself(name):
    """`--help`, which imports no command, shows the sentence that the command's own help begins with."""
    command = load_command(name)
    assert command.name == name
    listed = click.Command(name, help=COMMANDS[name][1])
    assert [listed.get_short_help_str(limit) for limit in (30, 60, 500)] == [
        command.get_short_help_str(limit) for limit in (30, 60, 500)
    ]


def test_every_module_with_a_command_is_listed():
    """No command is forgotten in the table that help is made of."""
    folder = Path(cli_package.__file__).parent
    found = {path.stem for path in folder.glob("*.py") if "@click.command(" in path.read_text(encoding="utf-8")}
    assert found == {module for module, _ in COMMANDS.values()}


def test_help_imports_no_command():
    """`pruneboard --help` loads neither rich nor a module of a command."""
    code = "import sys; from pruneboard.cli import invoke; invoke(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"rich", "numpy", "pruneboard.cli.run", "pruneboard.report"} & set(done.stderr.split())
