"""Reasons to refuse a merge: different results of one run, masks of another record, a folder in use."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fake_records import change, put, record
from merge_cases import counts, document, masks, merge, places, put_whole_run, tree
from pruneboard.records import runfolder, schema
from pruneboard.records.merging import conflicts


@pytest.mark.parametrize("changes", [{"software__commit": "a" * 40}, {"engine__zero": 2}, {"hardware__cores": 9}])
def test_equal_results_of_other_machines_are_not_a_conflict(tmp_path, capsys, changes):
    """Records may differ in software, engine and hardware; the destination's record stays."""
    a, b, dest = places(tmp_path)
    made = record()
    put(a, made)
    put(b, record(**changes, hash=made["hash"]))
    assert merge(a, "--into", dest) == 0
    code, said = document(capsys, b, "--into", dest)
    assert (code, counts(said)) == (0, {"already_there": 1})
    assert tree(dest) == tree(a)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("weights_sha256", "f" * 64, "weights_sha256 is 'ff"),
        ("metrics.test.loss", 0.5, "metrics.test.loss is 0.5 here and 0.25 in"),
        ("sparsity.layers.1.positions", 65, "sparsity.layers.1.positions is 65 here and 64 in"),
        ("cost.train_macs", 7, "cost.train_macs is 7 here and 6000000 in"),
        ("mask_sha256", "a" * 64, "mask_sha256 is 'aa"),
    ],
)
@pytest.mark.parametrize("where", ["source", "destination"])
def test_different_results_of_one_run_are_a_conflict(tmp_path, capsys, path, value, named, where):
    """The message names the first path that differs and both values; nothing is copied, also between two sources."""
    a, b, dest = places(tmp_path)
    made, other = record(), record()
    block, *keys = [int(key) if key.isdecimal() else key for key in path.split(".")]
    holder = other
    for key in (block, *keys)[:-1]:
        holder = holder[key]
    holder[(block, *keys)[-1]] = value
    put(a if where == "source" else dest, made)
    put(b, other)
    put(b, record(seed=5))
    before = tree(dest)
    assert merge(*((a, b) if where == "source" else (b,)), "--into", dest) == 2
    err = capsys.readouterr().err
    assert named in err
    assert "error: 1 conflict: nothing was copied" in err
    assert tree(dest) == before


def test_a_finished_record_anywhere_in_the_destination_can_conflict(tmp_path):
    """A finished record of the same run counts even if it is not in the folder that its fields give."""
    a, b, dest = places(tmp_path)
    put(a, record())
    shutil.move(put(b, record(top1=0.5)), dest / "elsewhere")
    assert merge(a, "--into", dest) == 2


@pytest.mark.parametrize("data", [masks(99)[0], b"PK"], ids=["another", "damaged"])
def test_masks_that_do_not_belong_to_their_record_are_a_conflict(tmp_path, capsys, data):
    """Masks with another hash than the record's, and masks that cannot be read, stop the merge."""
    a, _, dest = places(tmp_path)
    folder = put_whole_run(a)
    (folder / "mask.npz").write_bytes(data)
    assert merge(a, "--into", dest) == 2
    assert "mask.npz: does not belong to its record" in capsys.readouterr().err
    assert not dest.exists()


def test_a_locked_run_is_a_conflict(tmp_path, capsys):
    """A lock that a process holds in the destination stops the merge; a lock file without a holder does not."""
    a, _, dest = places(tmp_path)
    folder = put(a, record())
    put(a, record(seed=1))
    home = dest / folder.relative_to(a)
    with runfolder.locked(home):
        before = tree(dest)
        assert merge(a, "--into", dest) == 2
        assert f"is working on {home}" in capsys.readouterr().err
        assert tree(dest) == before
    (home / ".lock").touch()
    assert merge(a, "--into", dest) == 0
    assert tree(dest) == tree(a)


def test_a_difference_in_any_measurement_is_named():
    """Equal records give no conflict; a change of any field that is a measurement gives one with its path."""
    first = record()
    assert list(conflicts.result_conflicts([(Path("one"), first), (Path("two"), record())])) == []
    paths = [path for path, _ in schema.leaves(conflicts.measurements(first))]
    assert {"status", "metrics.test.top1", "sparsity.layers", "cost.train_macs", "weights_sha256"} <= set(paths)
    for path in (path for path in paths if not path.startswith("board.prunable.")):  # its keys contain dots
        second = change(record(), path, "another value")
        (conflict,) = conflicts.result_conflicts([(Path("one"), first), (Path("two"), second)])
        assert conflict.path == Path("two")
        assert conflict.reason.startswith(f"a different result of the same run: {path} is 'another value' here and ")


@pytest.mark.parametrize("block", ["software", "engine", "hardware", "lifecycle"])
def test_settings_and_times_are_not_measurements(block):
    """A block that says with what, where or when a result was computed is ignored."""
    first, second = record(), record() | {block: {"other": 1}}
    assert conflicts.measurements(first) == conflicts.measurements(second)


def test_three_results_are_compared_with_the_first():
    """Each record that differs from the first is a conflict of its own."""
    results = [(Path(str(number)), record(top1=top1)) for number, top1 in enumerate((0.5, 0.5, 0.6, 0.7))]
    assert [conflict.path for conflict in conflicts.result_conflicts(results)] == [Path("2"), Path("3")]
    assert list(conflicts.result_conflicts([])) == []


def test_a_record_without_the_majority_class_is_the_same_result():
    """Records of earlier versions do not contain it, and it follows from the images."""
    assert conflicts.measurements(record(data__majority=0.2)) == conflicts.measurements(record())
