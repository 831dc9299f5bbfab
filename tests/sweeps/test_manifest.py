"""`pruneboard status`: how far a sweep is, told from its folders alone, whoever wrote them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fake_records import put, record
from pruneboard.cli import invoke
from pruneboard.errors import NotFoundError, StoreError
from pruneboard.records import runfolder, store
from pruneboard.sweeps import manifest
from pruneboard.sweeps.manifest import ManifestEntry, RunStatus


def listed(made):
    """The line of a list that stands for a record."""
    return ManifestEntry(
        dataset=made["data"]["name"],
        model=made["model"]["name"],
        track=made["track"],
        method=made["method"]["name"],
        sparsity=made["sparsity"]["target"],
        seed=made["seed"],
        hash=made["hash"],
    )


def folder_of(results, made):
    """Where a run's record goes."""
    return store.run_folder(results, **vars(listed(made)))


def epoch(number, top1):
    """A line of metrics.jsonl, as far as it is looked at."""
    return {"epoch": number, "step": 10 * number, "validation": {"top1": top1}}


def stopped(results, seed, *rows):
    """A run that was stopped: a checkpoint, and its epochs so far."""
    made = record("probmask", 0.9, seed)
    folder = folder_of(results, made)
    runfolder.add_checkpoint(folder, 20, lambda path: path.write_bytes(b"weights"))
    for row in rows:
        runfolder.append_metrics(folder, row)
    return made


HOLDER = """
import sys
from pathlib import Path
from pruneboard.records import runfolder
with runfolder.locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def standing(results, made):
    """How far the run of a record is."""
    return manifest.standing(results, listed(made))


# What a folder says


def test_a_finished_run_has_its_test_accuracy_and_its_time(tmp_path):
    """Both from its record."""
    made = record("dense", None, top1=0.875, cost__wall_seconds=80.5)
    put(tmp_path, made)
    assert standing(tmp_path, made) == RunStatus(listed(made), "done", top1=0.875, seconds=80.5)


@pytest.mark.parametrize("status", ["diverged", "failed", "oom", "invalid", "interrupted"])
def test_an_unfinished_record_says_why(tmp_path, status):
    """Its status and its message."""
    made = record(status=status)
    put(tmp_path, made)
    assert standing(tmp_path, made) == RunStatus(listed(made), status, message=f"the run is {status}")


def test_without_a_folder_a_run_is_missing(tmp_path):
    """Also where the folder is empty, or only a log is in it."""
    made = record()
    assert standing(tmp_path, made).status == "missing"
    runfolder.begin(folder_of(tmp_path, made))
    runfolder.append_metrics(folder_of(tmp_path, made), epoch(1, 0.5))
    assert standing(tmp_path, made) == RunStatus(listed(made), "missing")


def test_a_run_that_was_stopped_has_a_checkpoint(tmp_path):
    """And is as far as the last line of its metrics."""
    made = stopped(tmp_path, 0, epoch(1, 0.5), epoch(2, 0.625))
    assert standing(tmp_path, made) == RunStatus(listed(made), "stopped", epoch=2, top1=0.625)


@pytest.mark.parametrize(
    "last",
    [
        "",
        "{",
        "[]",
        "null",
        '{"epoch": 1}',
        '{"epoch": 1, "validation": []}',
        '{"epoch": "1", "validation": {"top1": 0.5}}',
        '{"epoch": true, "validation": {"top1": 0.5}}',
        '{"epoch": 1, "validation": {"top1": null}}',
        '{"epoch": 1, "validation": {"top1": NaN}}',
        '{"epoch": 1, "validation": {"top1": Infinity}}',
        '{"epoch": 1, "validation": {"top1": 1' + "0" * 400 + "}}",
        "[" * 100_000,
        "\x00\ud800".encode("utf-8", "surrogatepass"),
    ],
    ids=lambda last: str(last)[:40],
)
def test_a_damaged_line_of_metrics_is_passed_over(tmp_path, last):
    """The run is still there; only how far it is cannot be told."""
    made = stopped(tmp_path, 0, epoch(1, 0.5))
    data = last if isinstance(last, bytes) else last.encode()
    (folder_of(tmp_path, made) / runfolder.METRICS).write_bytes(data)
    assert standing(tmp_path, made) == RunStatus(listed(made), "stopped")


def test_a_run_is_running_while_a_process_holds_its_folder(tmp_path):
    """The look takes no lock; once the process is gone, however it ended, the run is stopped."""
    made = stopped(tmp_path, 0, epoch(1, 0.5))
    command = [sys.executable, "-c", HOLDER, str(folder_of(tmp_path, made))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        assert standing(tmp_path, made) == RunStatus(listed(made), "running", epoch=1, top1=0.5)
        with pytest.raises(StoreError, match=f"process {holder.pid} "), runfolder.locked(folder_of(tmp_path, made)):
            pass
        holder.kill()
    assert standing(tmp_path, made).status == "stopped"
    with runfolder.locked(folder_of(tmp_path, made)):
        assert standing(tmp_path, made).status == "running"


def test_a_record_that_cannot_be_read_is_said(tmp_path):
    """With the reason."""
    made = record()
    folder_of(tmp_path, made).mkdir(parents=True)
    (folder_of(tmp_path, made) / "run.json").write_text("{")
    found = standing(tmp_path, made)
    assert found.status == "unreadable"
    assert "JSON" in found.message


# How long it takes


def at(method, track, status, seconds=None):
    """A standing, as far as its time counts."""
    run = ManifestEntry(dataset="d", model="m", track=track, method=method, sparsity=0.5, seed=0, hash="0" * 64)
    return RunStatus(run, status, seconds=seconds)


def test_the_rest_takes_what_runs_of_the_same_method_and_track_took():
    """A run under way counts whole; a failed one is not run again."""
    done = [at("a", "prune", "done", 10), at("a", "prune", "done", 20), at("b", "supermask", "done", 60)]
    left = [at("a", "prune", status) for status in ("missing", "running", "stopped", "interrupted")]
    assert manifest.seconds_left([*done, *left, at("a", "prune", "diverged")], 1) == 4 * 15
    assert manifest.seconds_left([*done, *left], 3) == pytest.approx(4 * 15 / 3)
    assert manifest.seconds_left([*done, at("a", "supermask", "missing")], 1) == 30  # the mean of all that are done
    assert manifest.seconds_left(done, 1) == 0
    assert manifest.seconds_left(left, 1) is None


# The list


def test_a_list_is_read_as_it_was_written(tmp_path):
    """In the order of the plan; another board's list stands beside it."""
    runs = [listed(record("probmask", 0.9, seed)) for seed in (3, 1)] + [listed(record("dense", None))]
    first = manifest.write(tmp_path, "b", runs, 4)
    second = manifest.write(tmp_path, "a", [], 1)
    assert manifest.read(first) == ("b", 4, runs)
    assert manifest.read(second) == ("a", 1, [])
    assert manifest.found_in(tmp_path) == [second, first]


RUN = vars(listed(record()))
GOOD = {"schema": 1, "board": "b", "jobs": 1, "runs": [RUN]}
HOSTILE = {
    "no JSON": b"{",
    "no text": b"\xff\xfe",
    "empty": b"",
    "a list": b"[]",
    "another schema": json.dumps(GOOD | {"schema": 2}).encode(),
    "no runs": json.dumps({"schema": 1, "board": "b", "jobs": 1}).encode(),
    "runs that are none": json.dumps(GOOD | {"runs": 5}).encode(),
    "a run that is none": json.dumps(GOOD | {"runs": [5]}).encode(),
    "a run that is text": json.dumps(GOOD | {"runs": ["dense"]}).encode(),
    "an unknown key": json.dumps(GOOD | {"runs": [RUN | {"\x1b[31m": 1}]}).encode(),
    "a missing key": json.dumps(GOOD | {"runs": [{"method": "a"}]}).encode(),
    "a name that is none": json.dumps(GOOD | {"runs": [RUN | {"method": 5}]}).encode(),
    "a long value": json.dumps(GOOD | {"runs": [RUN | {"seed": "x" * 10**6}]}).encode(),
    "no jobs": json.dumps(GOOD | {"jobs": 0}).encode(),
    "jobs that are true": json.dumps(GOOD | {"jobs": True}).encode(),
    "endless jobs": json.dumps(GOOD | {"jobs": float("inf")}).encode(),
    "very many jobs": json.dumps(GOOD | {"jobs": 10**400}).encode(),
    "too deep": b"[" * 100_000,
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_damaged_list_is_one_line(tmp_path, capsys, content):
    """Exit code 2, and nothing of what stands in it steers the terminal."""
    path = manifest.path_of(tmp_path, "b")
    path.parent.mkdir()
    path.write_bytes(content)
    assert invoke(["status", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {path} is no list of runs: ")
    assert err.count(str(path)) == 1
    assert len(err) < 1000
    assert err[:-1].isprintable()


def test_what_is_no_file_is_not_waited_for(tmp_path):
    """A folder or a pipe under a list's name is refused, a missing one is not found."""
    with pytest.raises(NotFoundError, match="start one with"):
        manifest.read(manifest.path_of(tmp_path, "b"))
    path = manifest.path_of(tmp_path, "b")
    path.mkdir(parents=True)
    with pytest.raises(StoreError, match="not a regular file"):
        manifest.read(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, max_examples=50)
@given(field=st.sampled_from([*RUN]), value=JSON)
@example(field="hash", value="../../../etc")
@example(field="model", value="\0")
@example(field="dataset", value="\ud800")
@example(field="sparsity", value=1e308)
@example(field="seed", value=-(10**4000))
@example(field="method", value="failures")
def test_whatever_a_list_says_it_is_refused_or_answered(field, value):
    """No value of a run ends in anything but an answer about a folder below the results, or one line."""
    with tempfile.TemporaryDirectory() as results:
        path = manifest.write(results, "b", [], 1)
        path.write_text(json.dumps(GOOD | {"runs": [RUN | {field: value}]}))
        try:
            _, jobs, runs = manifest.read(path)
        except StoreError:
            return
        (found,) = [manifest.standing(results, run) for run in runs]
        assert found.status == "missing"
        assert manifest.seconds_left([found], jobs) is None
        assert json.loads(json.dumps(manifest.as_json("b", [found], None)))["counts"] == {"missing": 1}


# The command


def test_no_sweep_is_exit_code_4(tmp_path, capsys):
    """Nor is a file whose name is no board's one."""
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "\x1b[31m.json").write_text("{")
    assert invoke(["status", str(tmp_path)]) == 4
    assert "no sweep in" in capsys.readouterr().err


@pytest.fixture
def under_way(tmp_path):
    """A sweep with a run of every kind."""
    done, failed = record("dense", None, cost__wall_seconds=3600), record("gmp", 0.9, status="failed")
    halted, missing = stopped(tmp_path, 1, epoch(3, 0.5)), record("probmask", 0.9, 2)
    for made in (done, failed):
        put(tmp_path, made)
    manifest.write(tmp_path, "some", [listed(made) for made in (done, failed, halted, missing)], 2)
    return tmp_path


def test_status_counts_and_names_what_is_not_done(under_way, capsys):
    """What is under way with its epoch, what failed with its reason, what is missing only as a number."""
    assert invoke(["status", str(under_way)]) == 0
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


def test_status_as_json_has_every_run(under_way, capsys):
    """With what each is named by and how far it is."""
    assert invoke(["status", str(under_way), "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    assert document["board"] == "some"
    assert document["seconds_left"] == 3600
    assert [run["status"] for run in document["runs"]] == ["done", "failed", "stopped", "missing"]
    assert document["runs"][2]["epoch"] == 3
    assert document["runs"][1]["message"] == "the run is failed"


def test_a_finished_sweep_is_counted_alone(tmp_path, capsys):
    """There is nothing left to say."""
    made = record()
    put(tmp_path, made)
    manifest.write(tmp_path, "some", [listed(made)], 1)
    invoke(["status", str(tmp_path)])
    assert capsys.readouterr().out == "some: 1 runs\n  done        1\n"


def test_names_and_messages_steer_no_terminal(tmp_path, capsys):
    """Control characters, line breaks and direction marks of a list or a record are not printed."""
    nasty = "\x1b[31mred\r\nline\u202e\x07"
    made = record("gmp", 0.9, status="failed", error__message=f"{nasty} and more")
    folder = put(tmp_path, made)
    assert folder.exists()
    named = listed(record("gmp", 0.9, 1))
    runfolder.add_checkpoint(
        store.run_folder(tmp_path, **vars(named) | {"method": nasty}), 1, lambda path: path.write_bytes(b"")
    )
    manifest.write(tmp_path, "some", [listed(made), ManifestEntry(**vars(named) | {"method": nasty})], 1)
    path = manifest.path_of(tmp_path, "some")
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"board": nasty}))
    assert invoke(["status", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.isprintable() for line in lines)
    assert len(lines) == 1 + 2 + 2
    assert "red line and more" in lines[3]
    assert invoke(["status", str(tmp_path), "--json"]) == 0
    assert capsys.readouterr().out.isascii()


def test_markup_is_printed_as_it_is(tmp_path, capsys):
    """Nothing in a name is read as a style of the terminal."""
    made = record("gmp", 0.9, status="failed", error__message="[red]not red[/red] [/]")
    put(tmp_path, made)
    manifest.write(tmp_path, "some", [listed(made)], 1)
    assert invoke(["status", str(tmp_path)]) == 0
    assert "[red]not red[/red] [/]" in capsys.readouterr().out


def test_the_list_is_where_the_command_looks(tmp_path):
    """Beside the runs, under the board's name; it is no record."""
    assert manifest.write(tmp_path, "some", [], 1) == Path(tmp_path, "sweeps", "some.json")


def test_a_part_of_a_board_keeps_the_rest_in_the_list(tmp_path):
    """A sweep of some methods adds its runs to the list; one of the whole board makes it anew."""
    first, second = listed(record("gmp")), listed(record("str"))
    manifest.write(tmp_path, "some", [first], 1)
    manifest.write(tmp_path, "some", [second, first], 2, part=True)
    assert manifest.read(manifest.path_of(tmp_path, "some"))[1:] == (2, [first, second])
    manifest.write(tmp_path, "some", [second], 2)
    assert manifest.read(manifest.path_of(tmp_path, "some"))[2] == [second]
    manifest.path_of(tmp_path, "some").write_text("damaged")
    manifest.write(tmp_path, "some", [first], 1, part=True)
    assert manifest.read(manifest.path_of(tmp_path, "some"))[2] == [first]
