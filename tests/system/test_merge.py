"""`pruneboard merge` from end to end: what it copies, what it prints, and that the order of sources does not matter."""

from __future__ import annotations

import tempfile
from itertools import permutations
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from fake_records import put, record
from merge_cases import archive, counts, document, merge, places, put_whole_run, stamps, tree
from project import ROOT
from pruneboard.records import store
from pruneboard.records.schema import canonical, dumps

LEFT_OUT = ("checkpoints/step-000000001.safetensors", ".lock", "events.out.tfevents.1", "log.rank1.txt", "notes.md")
STATUSES = st.sampled_from(["done", "done", "failed", "oom", "interrupted"])
RUNS = st.lists(st.tuples(st.integers(0, 2), STATUSES, st.integers(0, 2)), max_size=3, unique_by=lambda run: run[0])


def test_a_run_is_copied_with_its_files_and_nothing_else(tmp_path, capsys):
    """Record, masks, weights, log, metrics and archived records arrive byte for byte; nothing else is copied."""
    a, _, dest = places(tmp_path)
    folder = put_whole_run(a)
    archive(folder, "failures", 1, record(status="oom"))
    archive(folder, "superseded", 1, record(top1=0.8))
    expected = tree(a)
    for name in LEFT_OUT:
        store.write_atomic(folder / name, b"-")
    assert merge(a, "--into", dest) == 0
    assert tree(dest) == expected
    assert len(expected) == 7
    assert capsys.readouterr().out == ("1 copied, 0 upgraded, 0 already there, 1 failures kept, 1 superseded kept\n")


def test_all_conflicts_are_listed_up_to_a_number(tmp_path, capsys):
    """Twenty conflicts are printed and the others counted; the JSON document lists all of them, and no copied files."""
    a, b, dest = places(tmp_path)
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


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    """`--dry-run` prints which folders and files would be written, and counts them."""
    a, b, dest = places(tmp_path)
    folder = put_whole_run(a)
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


def written(root, contents):
    """Write each source, at most one run per seed with earlier failures, and return the sources that have a run."""
    sources = []
    for number, runs in enumerate(contents):
        for seed, status, failures in runs:
            day = f"2025-01-0{1 + number}"
            folder = put(root / str(number), record(seed=seed, status=status, lifecycle__ended=day))
            for count in range(failures):
                archive(folder, "failures", 1 + count, record(seed=seed, status="diverged", seeds__init=count))
        sources += [root / str(number)] if runs else []
    return sources


def recorded(dest):
    """Return path below the destination -> canonical record."""
    return {str(path.relative_to(dest)): canonical(store.read(path)) for path in dest.rglob("*.json")}


@given(contents=st.tuples(RUNS, RUNS, RUNS))
@example(contents=([(0, "failed", 1)], [(0, "done", 2)], [(0, "oom", 0)]))
@example(contents=([(0, "failed", 1)], [(0, "interrupted", 2)], [(0, "oom", 0)]))
@settings(deadline=None, max_examples=8)
def test_the_order_of_sources_does_not_matter(contents):
    """Any order gives the same files; merged one by one, sources give the same finished runs; no source is changed."""
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
        assert independent_of_order(root / "one-by-one") == independent_of_order(root / "dest0")
        assert {path: time for path, time in stamps(root).items() if path in before} == before


def independent_of_order(dest):
    """Return what is equal even if each source is merged alone: finished runs, paths of runs, and failures."""
    found = recorded(dest)
    finished = {path: record for path, record in found.items() if record["status"] == "done"}
    failed = {dumps(record) for record in found.values() if record["status"] not in ("done", "interrupted")}
    return finished, {path for path in found if path.endswith("run.json")}, failed


def test_the_committed_results_survive_a_merge():
    """Records of this repository, merged into a new folder, are found there byte for byte."""
    source = ROOT / "results" / "digits"
    with tempfile.TemporaryDirectory() as name:
        assert merge(source, "--into", name, "--json") == 0
        original = {record["hash"]: path.read_bytes() for path, record in store.scan([source]).records}
        assert {record["hash"]: path.read_bytes() for path, record in store.scan([name]).records} == original
