"""Finding the records of a merge: in sources, in archive folders, and in the destination."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest

from fake_records import put, record
from merge_cases import archive, counts, document, merge, places, put_whole_run
from pruneboard.errors import StoreError
from pruneboard.records import runfolder, store
from pruneboard.records.merging import discovery


def test_files_that_are_not_records_are_reported_and_skipped(tmp_path, capsys):
    """An unreadable `run.json` and an unreadable archived record get one line each; the rest is merged."""
    a, b, dest = places(tmp_path)
    folder = put_whole_run(a)
    store.write_atomic(folder / "failures" / "01.json", b"{")
    store.write_atomic(b / "x" / "run.json", b"[]")
    code = merge(a, b, "--into", dest)
    out, err = capsys.readouterr()
    assert code == 0
    assert out == "1 copied, 0 upgraded, 0 already there, 2 files skipped\n"
    assert f"skipped {b}/x/run.json: a record must be a JSON object" in err
    assert f"skipped {folder}/failures/01.json: is not JSON" in err


@pytest.mark.parametrize("content", [None, b"[]"], ids=["nothing", "no record"])
def test_sources_without_a_readable_record_are_exit_code_4(tmp_path, content):
    """Without a readable record in any source, `merge` exits with 4, as other commands that read records do."""
    a, _, dest = places(tmp_path)
    a.mkdir()
    if content:
        store.write_atomic(a / "run.json", content)
    assert merge(a, "--into", dest) == 4
    assert merge(a / "nowhere", "--into", dest) == 4
    assert not dest.exists()


def test_an_archived_record_without_a_run_json_is_merged(tmp_path, capsys):
    """A run that was interrupted during a repetition still has its superseded record, which is merged."""
    a, _, dest = places(tmp_path)
    put(a, record(seed=1))
    folder = put(a, record())
    runfolder.begin(folder, force=True)
    put(dest, record())
    code, said = document(capsys, a, "--into", dest)
    assert (code, counts(said)) == (0, {"copied": 1, "superseded_kept": 1})
    assert said["superseded_kept"] == [f"{folder.relative_to(a)}/superseded/01.json"]


ORDERED = [
    ("interrupted", "2025-03"),
    ("failed", "2025-01"),
    ("oom", "2025-02"),
    ("done", "2025-01"),
    ("done", "2025-02"),
]


def test_the_best_record_is_the_latest_finished_one():
    """Finished records rank highest and interrupted ones lowest, then the latest; the order of discovery is ignored."""
    items = [
        discovery.FoundRecord(Path(str(i)), record(status=status, lifecycle__ended=day), f"{i}")
        for i, (status, day) in enumerate(ORDERED)
    ]
    for order in permutations(items):
        assert sorted(order, key=lambda item: item.rank) == items
        assert discovery.SourceRun(list(order)).best is items[-1]


def test_an_archived_record_counts_only_without_a_run_json():
    """Even a failed `run.json` is preferred over a superseded finished record."""
    failed, finished = (
        discovery.FoundRecord(Path(status), record(status=status), status) for status in ("failed", "done")
    )
    run = discovery.SourceRun([failed])
    run.archived[store.SUPERSEDED].append(finished)
    assert run.best is failed
    assert run.finished == []
    run.runs.clear()
    assert run.best is finished


def test_records_are_grouped_by_their_content_hash(tmp_path):
    """The same run in two sources is one run; its archived records belong to it."""
    a, b, _ = places(tmp_path)
    folder = put(a, record())
    archive(folder, store.FAILURES, 1, record(status="oom"))
    put(b, record())
    put(b, record(seed=1))
    skipped = []
    runs = discovery.collect_runs([a, b], skipped)
    assert {content: len(run.runs) for content, run in runs.items()} == {
        record()["hash"]: 2,
        record(seed=1)["hash"]: 1,
    }
    assert [item.record["status"] for item in runs[record()["hash"]].archived[store.FAILURES]] == ["oom"]
    assert skipped == []


def test_only_finished_records_of_the_destination_are_listed(tmp_path):
    """A new destination has none; failed records and other files are ignored."""
    assert discovery.finished_records(tmp_path / "new") == {}
    put(tmp_path, record())
    put(tmp_path, record(seed=1, status="failed"))
    store.write_atomic(tmp_path / "bad" / "run.json", b"{")
    assert list(discovery.finished_records(tmp_path)) == [record()["hash"]]


def test_the_record_in_a_folder_is_read_or_refused(tmp_path):
    """A folder without `run.json` gives None, and an unreadable one is an error that says what to do."""
    assert discovery.record_in(tmp_path) is None
    folder = put(tmp_path, record())
    assert discovery.record_in(folder).record == record()
    (folder / "run.json").write_bytes(b"{")
    with pytest.raises(StoreError, match=r"^not a readable record \(is not JSON: .*\); move it away$"):
        discovery.record_in(folder)
