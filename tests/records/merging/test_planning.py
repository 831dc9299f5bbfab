"""`pruneboard merge`: one results folder out of several, nothing lost, nothing overwritten, nothing half done."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fake_records import LAYERS, put, record
from project import ROOT
from pruneboard.cli import invoke
from pruneboard.errors import StoreError
from pruneboard.records import mask_file, merging, runfolder, store
from pruneboard.records.schema import canonical, dumps

LEFT_OUT = ("checkpoints/step-000000001.safetensors", ".lock", "events.out.tfevents.1", "log.rank1.txt", "notes.md")


def masks(first=100):
    """The content of a mask.npz of the synthetic network, and its hash."""
    kept = [mask_file.pack(name, np.arange(n) < first) for name, n in LAYERS.items()]
    return mask_file.dumps(kept), mask_file.sha256(kept)


def run(results, made, **files):
    """Write a run with its files, `__` for the dot, and return its folder."""
    folder = put(results, made)
    for name, data in files.items():
        store.write_atomic(folder / name.replace("__", "."), data)
    return folder


def whole(results, method="probmask", seed=0, **changes):
    """Write a finished run with everything that belongs to one."""
    data, digest = masks()
    made = record(method, seed=seed, mask_sha256=digest, **changes)
    files = {"metrics__jsonl": b'{"step": 1}\n', "mask__npz": data, "log__txt": b"log\n"}
    return run(results, made, model__safetensors=b"weights", **files)


def shelve(folder, shelf, number, made):
    """Put a record on a shelf of a run."""
    return store.write_atomic(folder / shelf / f"{number:02d}.json", dumps(made).encode())


def tree(folder):
    """Every file below a folder with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def stamps(folder):
    """Every file and folder below one with the time of its last change."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def merge(*arguments):
    """Run the command and return its exit code."""
    return invoke(["merge", *map(str, arguments)])


def document(capsys, *arguments):
    """Run the command with --json and return its exit code and what it says."""
    capsys.readouterr()
    code = merge(*arguments, "--json")
    return code, json.loads(capsys.readouterr().out)


def counts(said):
    """The document with lists as their lengths, empty ones left out."""
    return {name: len(items) for name, items in said.items() if items}


@pytest.fixture
def places(tmp_path):
    """Two sources and a destination."""
    return tmp_path / "a", tmp_path / "b", tmp_path / "dest"


# What is copied


def test_a_run_is_copied_with_all_that_belongs_to_it_and_nothing_else(places, capsys):
    """Record, masks, weights, log, metrics and shelves arrive byte for byte; checkpoints, locks and the rest do not."""
    a, _, dest = places
    folder = whole(a)
    shelve(folder, "failures", 1, record(status="oom"))
    shelve(folder, "superseded", 1, record(top1=0.8))
    expected = tree(a)
    for name in LEFT_OUT:
        store.write_atomic(folder / name, b"-")
    assert merge(a, "--into", dest) == 0
    assert tree(dest) == expected
    assert len(expected) == 7
    assert capsys.readouterr().out == ("1 copied, 0 upgraded, 0 already there, 1 failures kept, 1 superseded kept\n")


def test_a_run_goes_where_its_record_belongs(places):
    """Neither the source's folders nor a name in the record decide: `store.run_folder` does."""
    a, _, dest = places
    made = record(model__name="../../escape")
    moved = a / "deep" / "er" / "any-name"
    store.write_atomic(moved / "run.json", dumps(made).encode())
    assert merge(moved.parent, "--into", dest) == 0
    (path,) = dest.rglob("run.json")
    assert path.relative_to(dest).parts[:3] == ("digits", "escape", "prune")
    assert store.read(path) == made


def test_weights_can_be_left_out_and_come_later(places, capsys):
    """`--no-weights` copies all but the weights; merging again without it adds them, and nothing else."""
    a, _, dest = places
    whole(a)
    assert merge(a, "--into", dest, "--no-weights") == 0
    assert {Path(name).name for name in tree(dest)} == {"run.json", "metrics.jsonl", "mask.npz", "log.txt"}
    code, said = document(capsys, a, "--into", dest)
    assert (code, counts(said)) == (0, {"already_there": 1, "completed": 1})
    assert tree(dest) == tree(a)


def test_a_link_is_not_copied(places, capsys):
    """A file that is a link could be any file of this machine: it is named and left out."""
    a, _, dest = places
    folder = whole(a)
    (folder / "log.txt").unlink()
    (folder / "log.txt").symlink_to("/etc/hostname")
    (folder / "failures").symlink_to("/")
    assert merge(a, "--into", dest) == 0
    assert capsys.readouterr().err.count("skipped ") == 2
    assert not list(dest.rglob("log.txt"))


def test_files_that_are_no_record_are_named_and_skipped(places, capsys):
    """One unreadable run.json and one on a shelf cost a line each, and the rest is merged."""
    a, b, dest = places
    folder = whole(a)
    store.write_atomic(folder / "failures" / "01.json", b"{")
    store.write_atomic(b / "x" / "run.json", b"[]")
    code = merge(a, b, "--into", dest)
    out, err = capsys.readouterr()
    assert code == 0
    assert out == "1 copied, 0 upgraded, 0 already there, 2 files skipped\n"
    assert f"skipped {b}/x/run.json: a record must be a JSON object" in err
    assert f"skipped {folder}/failures/01.json: is not JSON" in err


@pytest.mark.parametrize("content", [None, b"[]"], ids=["nothing", "no record"])
def test_where_nothing_can_be_read_it_ends_with_4(places, content):
    """No record in any source is exit code 4, as for the other commands that read records."""
    a, _, dest = places
    a.mkdir()
    if content:
        store.write_atomic(a / "run.json", content)
    assert merge(a, "--into", dest) == 4
    assert merge(a / "nowhere", "--into", dest) == 4
    assert not dest.exists()


# Which record stays


def test_a_second_merge_changes_nothing(places, capsys):
    """All is already there: not even a time of change differs."""
    a, _, dest = places
    shelve(whole(a), "failures", 1, record(status="oom"))
    whole(a, seed=1, status="failed")
    assert merge(a, "--into", dest) == 0
    before = stamps(dest)
    assert counts(document(capsys, a, "--into", dest)[1]) == {"already_there": 2}
    assert stamps(dest) == before


@pytest.mark.parametrize("changes", [{"software__commit": "a" * 40}, {"engine__zero": 2}, {"hardware__cores": 9}])
def test_equal_results_of_other_machines_are_no_conflict(places, capsys, changes):
    """Software, engine and hardware say what a result was made with: the one that is there stays."""
    a, b, dest = places
    made = record()
    put(a, made)
    put(b, record(**changes, hash=made["hash"]))
    assert merge(a, "--into", dest) == 0
    code, said = document(capsys, b, "--into", dest)
    assert (code, counts(said)) == (0, {"already_there": 1})
    assert tree(dest) == tree(a)


@pytest.mark.parametrize("status", ["failed", "diverged", "oom", "invalid"])
def test_a_finished_record_replaces_a_failed_one_which_is_kept(places, capsys, status):
    """The finished one becomes run.json with its own files; the failed one is on the shelf, whatever its kind."""
    a, b, dest = places
    failed = record(status=status)
    folder = run(dest, failed, metrics__jsonl=b"old", log__txt=b"old", model__safetensors=b"old")
    store.write_atomic(folder / "checkpoints" / "step-000000001.safetensors", b"old")
    folder = whole(a)
    (folder / "log.txt").unlink()
    expected = tree(a)
    code, said = document(capsys, a, "--into", dest)
    kept = f"{folder.relative_to(a)}/failures/01.json"
    assert (code, said["upgraded"], said["failures_kept"]) == (0, [str(folder.relative_to(a))], [kept])
    assert tree(dest) == expected | {kept: dumps(failed).encode()}
    put(b, failed)
    assert counts(document(capsys, b, "--into", dest)[1]) == {"already_there": 1}, "it is on the shelf already"


def test_a_finished_record_replaces_an_interrupted_one_which_is_dropped(places, capsys):
    """An interruption is no failure: nothing of it is kept."""
    a, _, dest = places
    put(dest, record(status="interrupted"))
    put(a, record())
    assert counts(document(capsys, a, "--into", dest)[1]) == {"upgraded": 1}
    assert tree(dest) == tree(a)


def test_a_failed_record_goes_on_the_shelf_of_a_finished_one(places, capsys):
    """What failed elsewhere is counted where the run is finished, and what was interrupted is not."""
    a, b, dest = places
    put(dest, record())
    failed = record(status="diverged")
    put(a, failed)
    put(b, record(status="interrupted"))
    assert counts(document(capsys, a, b, "--into", dest)[1]) == {"already_there": 1, "failures_kept": 1}
    (shelf,) = dest.rglob("failures")
    assert [store.read(path) for path in store.numbered_records(shelf)] == [failed]


def test_of_two_unfinished_ones_that_of_the_destination_stays(places, capsys):
    """The other one goes on its shelf, under the next free number."""
    a, _, dest = places
    here, other, older = (record(status=status) for status in ("failed", "diverged", "oom"))
    shelve(put(dest, here), "failures", 3, older)
    put(a, other)
    assert counts(document(capsys, a, "--into", dest)[1]) == {"already_there": 1, "failures_kept": 1}
    (path,) = dest.rglob("run.json")
    assert store.read(path) == here
    assert store.read(path.parent / "failures" / "04.json") == other


def test_an_attempt_that_can_go_on_is_left_alone(places):
    """Where the destination has checkpoints and no record, a failed record does not take its place."""
    a, _, dest = places
    folder = put(a, record(status="failed"))
    home = dest / folder.relative_to(a)
    store.write_atomic(home / "checkpoints" / "step-000000001.safetensors", b"state")
    store.write_atomic(home / "metrics.jsonl", b"{}\n")
    assert merge(a, "--into", dest) == 0
    names = sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())
    assert names == ["checkpoints/step-000000001.safetensors", "failures/01.json", "metrics.jsonl"]


def test_shelves_are_joined_without_overwriting(places, capsys):
    """Equal files are taken once, others get the next free number, and a superseded record stays one."""
    a, b, dest = places
    made = [record(status="oom", lifecycle__ended=f"2025-01-0{day}", hash=record()["hash"]) for day in (1, 2, 3)]
    one, two = put(a, record()), put(b, record())
    for folder, numbers in ((one, (0, 1)), (two, (1, 2))):
        for number, item in enumerate(numbers, 1):
            shelve(folder, "failures", number, made[item])
    shelve(two, "superseded", 1, record())
    assert merge(a, "--into", dest) == 0
    assert counts(document(capsys, b, "--into", dest)[1]) == {
        "already_there": 1,
        "failures_kept": 1,
        "superseded_kept": 1,
    }
    home = dest / one.relative_to(a)
    assert [store.read(home / "failures" / f"0{n}.json") for n in (1, 2, 3)] == made
    assert store.read(home / "superseded" / "01.json") == record()


def test_a_shelf_without_a_record_is_merged_as_well(places, capsys):
    """A run that was being made anew when its process ended still has its superseded record."""
    a, _, dest = places
    put(a, record(seed=1))
    folder = put(a, record())
    runfolder.begin(folder, force=True)
    put(dest, record())
    code, said = document(capsys, a, "--into", dest)
    assert (code, counts(said)) == (0, {"copied": 1, "superseded_kept": 1})
    assert said["superseded_kept"] == [f"{folder.relative_to(a)}/superseded/01.json"]


# What is refused


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
def test_two_results_of_one_run_are_a_conflict(places, capsys, path, value, named, where):
    """Another measurement is named with its path and both values, and nothing is copied, between sources too."""
    a, b, dest = places
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


def test_all_conflicts_are_listed_up_to_a_number(places, capsys):
    """Twenty are printed and the others counted; the JSON document has every one, and lists nothing as done."""
    a, b, dest = places
    for seed in range(23):
        put(a, record(seed=seed))
        put(b, record(seed=seed, top1=0.5, hash=record(seed=seed)["hash"]))
    put(b, record(seed=50))
    assert merge(a, b, "--into", dest) == 2
    err = capsys.readouterr().err
    assert err.count("conflict: ") == 20
    assert "23 conflicts (3 more than are shown" in err
    code, said = document(capsys, a, b, "--into", dest)
    assert (code, counts(said)) == (2, {"conflicts": 23})
    assert not dest.exists()


def test_a_conflict_is_seen_wherever_the_other_record_lies(places):
    """A finished record of the same run counts in any folder of the destination."""
    a, b, dest = places
    put(a, record())
    shutil.move(put(b, record(top1=0.5)), dest / "elsewhere")
    assert merge(a, "--into", dest) == 2


def test_what_is_no_record_in_the_destination_is_not_overwritten(places, capsys):
    """A run.json that cannot be read is in the way, and so is that of another run with the same eight digits."""
    a, _, dest = places
    made = record()
    folder = put(a, made)
    path = dest / folder.relative_to(a) / "run.json"
    store.write_atomic(path, b"{")
    assert merge(a, "--into", dest) == 2
    assert f"{path}: is in the way: is not JSON" in capsys.readouterr().err
    store.write_atomic(path, dumps(made | {"hash": made["hash"][:8] + "0" * 56}).encode())
    before = tree(dest)
    assert merge(a, "--into", dest) == 2
    assert "two runs share this folder" in capsys.readouterr().err
    assert tree(dest) == before


@pytest.mark.parametrize("data", [masks(99)[0], b"PK"], ids=["another", "damaged"])
def test_a_mask_that_is_not_its_records_is_refused(places, capsys, data):
    """Masks whose hash is not that of the record, or that cannot be read, stop the merge."""
    a, _, dest = places
    folder = whole(a)
    (folder / "mask.npz").write_bytes(data)
    assert merge(a, "--into", dest) == 2
    assert "mask.npz: does not belong to its record" in capsys.readouterr().err
    assert not dest.exists()


def test_a_run_that_is_worked_on_is_left_alone(places, capsys):
    """A lock that a process holds in the destination is a conflict; one that nobody holds is not."""
    a, _, dest = places
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


@pytest.mark.parametrize(
    ("source", "into", "message"),
    [
        ("r", "r", "is the destination itself"),
        ("r", "s/../r", "is the destination itself"),
        ("r", "r/digits", "r/digits lies in r"),
        ("r/digits", "r", "r/digits lies in r"),
        ("r", "link/new", "link/new lies in r"),
    ],
)
def test_folders_within_each_other_are_refused(tmp_path, monkeypatch, capsys, source, into, message):
    """A source is neither the destination nor above or below it, by whatever name."""
    monkeypatch.chdir(tmp_path)
    put(Path("r"), record())
    Path("s").mkdir()
    Path("link").symlink_to("r")
    before = tree(tmp_path)
    assert merge(source, "--into", into) == 2
    assert message in capsys.readouterr().err
    assert tree(tmp_path) == before


def test_a_destination_that_changed_meanwhile_is_not_written(places):
    """What was planned for a folder holds only for the record that was there then."""
    a, _, dest = places
    put(a, record())
    made = merging.plan([a], dest)
    put(dest, record(status="failed"))
    before = tree(dest)
    with pytest.raises(StoreError, match="changed while the merge was under way"):
        merging.carry_out(made)
    assert tree(dest) == before


# How it is told


def test_a_dry_run_writes_nothing(places, capsys):
    """It says which folders and files would come, and counts them."""
    a, b, dest = places
    folder = whole(a)
    put(dest, record("gmp", status="failed"))
    upgraded = put(b, record("gmp"))
    before = stamps(dest)
    assert merge(a, b, "--into", dest, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["copied", str(folder.relative_to(a))],
        ["upgraded", str(upgraded.relative_to(b))],
    ]
    assert lines[-1] == "1 copied, 1 upgraded, 0 already there, 1 failures kept (dry run: nothing was written)"
    assert stamps(dest) == before
    assert counts(document(capsys, a, b, "--into", dest, "--dry-run")[1]) == {
        "copied": 1,
        "upgraded": 1,
        "failures_kept": 1,
    }
    assert stamps(dest) == before


# Whatever happens


@pytest.mark.parametrize("writes", [1, 3, 4, 6])
def test_a_killed_merge_has_no_half_records_and_the_next_one_completes_it(places, writes):
    """Killed at any file, every record that is there has its masks; the same command then ends as an unkilled one."""
    a, b, dest = places
    for seed in (0, 1):
        shelve(whole(a, seed=seed), "failures", 1, record(seed=seed, status="oom"))
        put(dest, record(seed=seed, status="failed"))
    shutil.copytree(dest, b)
    assert merge(a, "--into", b) == 0
    script = f"""
import os, sys
from pruneboard.cli import invoke
real, left = os.replace, [{writes}]
def replace(*paths):
    left[0] -= 1
    if left[0] < 0:
        os._exit(9)
    real(*paths)
os.replace = replace
invoke(["merge", *sys.argv[1:]])
"""
    done = subprocess.run([sys.executable, "-c", script, a, "--into", dest], check=False, cwd=ROOT)
    assert done.returncode == 9
    for path in dest.rglob("run.json"):
        assert store.status(path) == "failed" or (path.parent / "mask.npz").exists()
    assert merge(a, "--into", dest) == 0
    assert {name: data for name, data in tree(dest).items() if not name.endswith((".part", ".lock"))} == tree(b)


STATUSES = st.sampled_from(["done", "done", "failed", "oom", "interrupted"])
RUNS = st.lists(st.tuples(st.integers(0, 2), STATUSES, st.integers(0, 2)), max_size=3, unique_by=lambda run: run[0])


def written(root, contents):
    """Write each source, one run or none per seed with earlier failures, and return those with a run in them."""
    sources = []
    for number, runs in enumerate(contents):
        for seed, status, failures in runs:
            day = f"2025-01-0{1 + number}"
            folder = put(root / str(number), record(seed=seed, status=status, lifecycle__ended=day))
            for count in range(failures):
                shelve(folder, "failures", 1 + count, record(seed=seed, status="diverged", seeds__init=count))
        sources += [root / str(number)] if runs else []
    return sources


def recorded(dest):
    """Path below the destination -> canonical record."""
    return {str(path.relative_to(dest)): canonical(store.read(path)) for path in dest.rglob("*.json")}


@given(contents=st.tuples(RUNS, RUNS, RUNS))
@example(contents=([(0, "failed", 1)], [(0, "done", 2)], [(0, "oom", 0)]))
@example(contents=([(0, "failed", 1)], [(0, "interrupted", 2)], [(0, "oom", 0)]))
@settings(deadline=None, max_examples=8)
def test_the_order_of_sources_does_not_matter(contents):
    """Any order gives the same files, one source after the other the same finished runs, and no source is changed."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        sources = written(root, contents)
        if not sources:
            return
        before = stamps(root)
        results = []
        for number, order in enumerate(permutations(sources)):
            dest = root / f"dest{number}"
            assert merge(*order, "--into", dest) == 0
            results.append(tree(dest))
            assert merge(*order, "--into", dest) == 0
            assert tree(dest) == results[-1]
        assert all(result == results[0] for result in results)
        for source in reversed(sources):
            assert merge(source, "--into", root / "one-by-one") == 0
        assert after_each_other(root / "one-by-one") == after_each_other(root / "dest0")
        assert {path: time for path, time in stamps(root).items() if path in before} == before


def after_each_other(dest):
    """What holds in any order, also where each source is merged on its own: runs, finished ones, and failures."""
    found = recorded(dest)
    finished = {path: record for path, record in found.items() if record["status"] == "done"}
    failed = {dumps(record) for record in found.values() if record["status"] not in ("done", "interrupted")}
    return finished, {path for path in found if path.endswith("run.json")}, failed


def test_the_committed_results_survive_a_merge():
    """Records, masks and shelves of this repository go into a new folder and come out of `store.scan` again."""
    source = ROOT / "results" / "digits"
    with tempfile.TemporaryDirectory() as name:
        assert merge(source, "--into", name, "--json") == 0
        original = {record["hash"]: path.read_bytes() for path, record in store.scan([source]).records}
        assert {record["hash"]: path.read_bytes() for path, record in store.scan([name]).records} == original
