"""`pruneboard status`: it shows the progress of sweeps from files alone, and survives damaged ones."""

from __future__ import annotations

import json

import pytest

from fake_records import put, record
from manifest_cases import DAMAGED, entry, epoch, stopped
from pruneboard.cli import invoke
from pruneboard.records import runfolder, store
from pruneboard.sweeps import manifest
from pruneboard.sweeps.manifest import ManifestEntry


def test_a_folder_without_a_sweep_is_exit_code_4(tmp_path, capsys):
    """A results folder without a manifest is an error; a file whose name is not a board name does not count as one."""
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "\x1b[31m.json").write_text("{")
    assert invoke(["status", str(tmp_path)]) == 4
    assert "no sweep in" in capsys.readouterr().err


@pytest.fixture
def unfinished(tmp_path):
    """Write a sweep with a finished, a failed, a stopped and a missing run."""
    done, failed = record("dense", None, cost__wall_seconds=3600), record("gmp", 0.9, status="failed")
    halted, missing = stopped(tmp_path, 1, epoch(3, 0.5)), record("probmask", 0.9, 2)
    for made in (done, failed):
        put(tmp_path, made)
    manifest.write(tmp_path, "some", [entry(made) for made in (done, failed, halted, missing)], 2)
    return tmp_path


def test_status_counts_all_runs_and_lists_unfinished_ones(unfinished, capsys):
    """A stopped run is listed with its epoch, a failed one with its error; missing runs are only counted."""
    assert invoke(["status", str(unfinished)]) == 0
    assert capsys.readouterr().out == (
        "some: 4 runs\n"
        "  done        1\n"
        "  failed      1\n"
        "  missing     1\n"
        "  stopped     1\n"
        "  about 1 h 0 min left at the pace of the finished runs\n"
        "  failed      gmp at 0.9, resnet20_cifar, prune, seed 0: the run is failed\n"
        "  stopped     probmask at 0.9, resnet20_cifar, prune, seed 1: epoch 3, validation top-1 50.00%\n"
    )


def test_status_as_json_contains_every_run(unfinished, capsys):
    """The JSON document contains the counts, the remaining seconds, and the status of every run."""
    assert invoke(["status", str(unfinished), "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    assert document["board"] == "some"
    assert document["seconds_left"] == 3600
    assert [run["status"] for run in document["runs"]] == ["done", "failed", "stopped", "missing"]
    assert document["runs"][2]["epoch"] == 3
    assert document["runs"][1]["message"] == "the run is failed"


def test_a_finished_sweep_is_only_counted(tmp_path, capsys):
    """If all runs are done, the command prints only their number."""
    made = record()
    put(tmp_path, made)
    manifest.write(tmp_path, "some", [entry(made)], 1)
    invoke(["status", str(tmp_path)])
    assert capsys.readouterr().out == "some: 1 runs\n  done        1\n"


def test_control_characters_are_not_printed(tmp_path, capsys):
    """Control characters, line breaks and direction marks of a manifest or a record do not reach the terminal."""
    nasty = "\x1b[31mred\r\nline\u202e\x07"
    made = record("gmp", 0.9, status="failed", error__message=f"{nasty} and more")
    folder = put(tmp_path, made)
    assert folder.exists()
    named = entry(record("gmp", 0.9, 1))
    runfolder.add_checkpoint(
        store.run_folder(tmp_path, **vars(named) | {"method": nasty}), 1, lambda path: path.write_bytes(b"")
    )
    manifest.write(tmp_path, "some", [entry(made), ManifestEntry(**vars(named) | {"method": nasty})], 1)
    path = manifest.manifest_path(tmp_path, "some")
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"board": nasty}))
    assert invoke(["status", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.isprintable() for line in lines)
    assert len(lines) == 1 + 2 + 2
    assert "red line and more" in lines[3]
    assert invoke(["status", str(tmp_path), "--json"]) == 0
    assert capsys.readouterr().out.isascii()


def test_markup_is_printed_literally(tmp_path, capsys):
    """Text in square brackets is not interpreted as a style of the terminal."""
    made = record("gmp", 0.9, status="failed", error__message="[red]not red[/red] [/]")
    put(tmp_path, made)
    manifest.write(tmp_path, "some", [entry(made)], 1)
    assert invoke(["status", str(tmp_path)]) == 0
    assert "[red]not red[/red] [/]" in capsys.readouterr().out


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_manifest_is_exit_code_2(tmp_path, capsys, content):
    """A damaged manifest is reported in one short printable line that names the file once."""
    path = manifest.manifest_path(tmp_path, "b")
    path.parent.mkdir()
    path.write_bytes(content)
    assert invoke(["status", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {path} is not a valid sweep manifest: ")
    assert err.count(str(path)) == 1
    assert len(err) < 1000
    assert err[:-1].isprintable()
