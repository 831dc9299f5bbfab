"""What a merge does with one run: which record it keeps, and which files it copies."""

from __future__ import annotations

from pathlib import Path

import pytest

from fake_records import put, record
from merge_cases import archive, counts, document, merge, places, put_run, put_whole_run, tree
from pruneboard.records import merging, store
from pruneboard.records.schema import dumps


def test_weights_can_be_excluded_and_added_later(tmp_path, capsys):
    """`--no-weights` copies all files but the weights; a second merge without the option adds only these."""
    a, _, dest = places(tmp_path)
    put_whole_run(a)
    assert merge(a, "--into", dest, "--no-weights") == 0
    assert {Path(name).name for name in tree(dest)} == {"run.json", "metrics.jsonl", "mask.npz", "log.txt"}
    code, said = document(capsys, a, "--into", dest)
    assert (code, counts(said)) == (0, {"already_there": 1, "completed": 1})
    assert tree(dest) == tree(a)


def test_links_are_reported_and_not_copied(tmp_path, capsys):
    """A link instead of a file or of an archive folder could lead anywhere, so it is reported and skipped."""
    a, _, dest = places(tmp_path)
    folder = put_whole_run(a)
    (folder / "log.txt").unlink()
    (folder / "log.txt").symlink_to("/etc/hostname")
    (folder / "failures").symlink_to("/")
    assert merge(a, "--into", dest) == 0
    assert capsys.readouterr().err.count("skipped ") == 2
    assert not list(dest.rglob("log.txt"))


@pytest.mark.parametrize("name", ["run.json", "failures/01.json"])
def test_a_linked_record_is_reported_and_not_copied(tmp_path, capsys, name):
    """A record that is a link to a file elsewhere is not the source's, even if it can be read."""
    a, b, dest = places(tmp_path)
    put(a, record())
    other = put(b, record(seed=1))
    link = put(a, record(seed=2)) / name
    link.unlink(missing_ok=True)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(other / "run.json")
    assert merge(a, "--into", dest) == 0
    assert capsys.readouterr().err.count("skipped ") == 1
    assert not [path for path in dest.rglob("*.json") if store.read(path)["seed"] == 1]


@pytest.mark.parametrize("status", ["failed", "diverged", "oom", "invalid"])
def test_a_finished_record_replaces_a_failed_one_which_is_archived(tmp_path, capsys, status):
    """The finished record becomes `run.json` with its files; the failed one, of any status, moves to `failures/`."""
    a, b, dest = places(tmp_path)
    failed = record(status=status)
    folder = put_run(dest, failed, metrics__jsonl=b"old", log__txt=b"old", model__safetensors=b"old")
    store.write_atomic(folder / "checkpoints" / "step-000000001.safetensors", b"old")
    folder = put_whole_run(a)
    (folder / "log.txt").unlink()
    expected = tree(a)
    code, said = document(capsys, a, "--into", dest)
    kept = f"{folder.relative_to(a)}/failures/01.json"
    assert (code, said["upgraded"], said["failures_kept"]) == (0, [str(folder.relative_to(a))], [kept])
    assert tree(dest) == expected | {kept: dumps(failed).encode()}
    put(b, failed)
    assert counts(document(capsys, b, "--into", dest)[1]) == {"already_there": 1}, "it is archived already"


def test_a_finished_record_replaces_an_interrupted_one_which_is_dropped(tmp_path, capsys):
    """The record of an interrupted run is not a failure and is not archived."""
    a, _, dest = places(tmp_path)
    put(dest, record(status="interrupted"))
    put(a, record())
    assert counts(document(capsys, a, "--into", dest)[1]) == {"upgraded": 1}
    assert tree(dest) == tree(a)


def test_a_failed_record_is_archived_beside_a_finished_one(tmp_path, capsys):
    """A failed record from a source goes to `failures/` of the finished run; an interrupted one is dropped."""
    a, b, dest = places(tmp_path)
    put(dest, record())
    failed = record(status="diverged")
    put(a, failed)
    put(b, record(status="interrupted"))
    assert counts(document(capsys, a, b, "--into", dest)[1]) == {"already_there": 1, "failures_kept": 1}
    (folder,) = dest.rglob("failures")
    assert [store.read(path) for path in store.numbered_records(folder)] == [failed]


def test_an_unfinished_record_in_the_destination_stays(tmp_path, capsys):
    """The unfinished record of a source is archived under the next free number."""
    a, _, dest = places(tmp_path)
    here, other, older = (record(status=status) for status in ("failed", "diverged", "oom"))
    archive(put(dest, here), "failures", 3, older)
    put(a, other)
    assert counts(document(capsys, a, "--into", dest)[1]) == {"already_there": 1, "failures_kept": 1}
    (path,) = dest.rglob("run.json")
    assert store.read(path) == here
    assert store.read(path.parent / "failures" / "04.json") == other


def test_an_attempt_that_can_be_resumed_stays_as_it_is(tmp_path):
    """If the destination has checkpoints and no record, a failed record does not become its `run.json`."""
    a, _, dest = places(tmp_path)
    folder = put(a, record(status="failed"))
    home = dest / folder.relative_to(a)
    store.write_atomic(home / "checkpoints" / "step-000000001.safetensors", b"state")
    store.write_atomic(home / "metrics.jsonl", b"{}\n")
    assert merge(a, "--into", dest) == 0
    names = sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())
    assert names == ["checkpoints/step-000000001.safetensors", "failures/01.json", "metrics.jsonl"]


def test_archive_folders_are_merged_without_overwriting(tmp_path, capsys):
    """Equal bytes are copied once, other records get the next free number, and a superseded one stays superseded."""
    a, b, dest = places(tmp_path)
    made = [record(status="oom", lifecycle__ended=f"2025-01-0{day}", hash=record()["hash"]) for day in (1, 2, 3)]
    one, two = put(a, record()), put(b, record())
    for folder, numbers in ((one, (0, 1)), (two, (1, 2))):
        for number, item in enumerate(numbers, 1):
            archive(folder, "failures", number, made[item])
    archive(two, "superseded", 1, record())
    assert merge(a, "--into", dest) == 0
    assert counts(document(capsys, b, "--into", dest)[1]) == {
        "already_there": 1,
        "failures_kept": 1,
        "superseded_kept": 1,
    }
    home = dest / one.relative_to(a)
    assert [store.read(home / "failures" / f"0{n}.json") for n in (1, 2, 3)] == made
    assert store.read(home / "superseded" / "01.json") == record()


UNFINISHED = ("failed", "interrupted")
OUTCOMES = {
    (None, "done"): "copied",
    **{(None, status): "copied" for status in UNFINISHED},
    ("done", "done"): "already_there",
    **{(here, "done"): "upgraded" for here in UNFINISHED},
    **{(here, status): "already_there" for here in ("done", *UNFINISHED) for status in UNFINISHED},
}


@pytest.mark.parametrize(("here", "source"), OUTCOMES)
def test_the_outcome_of_a_step_is_that_of_the_documented_table(tmp_path, here, source):
    """What happens to a run follows from the two statuses alone, as docs/merge.md lists them."""
    a, _, dest = places(tmp_path)
    put(a, record(status=source))
    if here:
        put(dest, record(status=here, lifecycle__ended="2020"))
    (step,) = merging.plan_merge([a], dest).steps
    outcome = OUTCOMES[here, source]
    assert step.outcome == outcome
    assert (step.run is None) == (outcome == "already_there")
    replaced_failure = here == "failed" and outcome == "upgraded"
    failure_beside = source == "failed" and outcome == "already_there"
    assert len(step.archived) == (replaced_failure or failure_beside)
