"""Records of unknown origin: thousands of mutants stop no command, and none is lost without a message."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil

import pytest
from click.testing import CliRunner

import record_mutants as mutants
from fake_records import change, put, record
from pruneboard import report
from pruneboard.artifacts.verification import consistency
from pruneboard.artifacts.verification.verify import verify
from pruneboard.cli import compare, invoke
from pruneboard.leaderboard import folders
from pruneboard.records import fields, store
from pruneboard.records import schema as records
from pruneboard.records.merging import execute, plan_merge
from pruneboard.report import files
from verify_cases import one_with, record_of

COUNT = int(os.environ.get("PRUNEBOARD_FUZZ_COUNT", "5000"))
PER_FOLDER = 50


SAMPLES = (True, 1, "f" * 64, {}, {".gif": 2}, [{}])
"""Values of which every field that a published record may lack accepts one."""


def complete_record():
    """A record as a run of today writes it, with all optional fields."""
    made = change(one_with("sparsity.effective"), "cost.storage_bits", {"mask": 10, "total": 9000})
    absent = object()
    for path, field in fields.FIELDS.items():
        if "*" not in path and records.lookup(made, path, absent) is absent:
            change(made, path, copy.deepcopy(next(value for value in SAMPLES if field.accepts(value))))
    return records.validate(made)


def valid_records():
    """Records with every field, among them one as a run of today writes it, and a failed one."""
    return [
        complete_record(),
        record("dense", None),
        record("probmask", 0.9, top1=0.8),
        record("magnitude", status="failed"),
    ]


@pytest.fixture(scope="module")
def mutated(tmp_path_factory):
    """A folder with `COUNT` mutants: half of them systematic, with every value of a record replaced, half random."""
    print(f"seed {mutants.SEED}; PRUNEBOARD_FUZZ_SEED and PRUNEBOARD_FUZZ_COUNT select others, and more of them")
    draw = random.Random(mutants.SEED)
    results = tmp_path_factory.mktemp("mutated")
    good = valid_records()
    one_each = draw.sample([mutant for made in good for mutant in mutants.systematic(made)], COUNT // 2)
    chosen = [json.dumps(mutant()).encode() for mutant in one_each]
    chosen += [mutants.mutate(draw.choice(good), draw) for _ in range(COUNT // 2)]
    put(results, record("dense", None))
    for number, data in enumerate(chosen):
        folder = results / f"{number // PER_FOLDER}" / f"{number}"
        folder.mkdir(parents=True)
        (folder / "run.json").write_bytes(data)
    return results


@pytest.fixture(scope="module")
def readable(mutated):
    """The mutants that can be read, by path."""
    return dict(store.scan([mutated], without=mutated / folders.FOLDER).records)


def contents(folder):
    """The contents of all files below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_value_of_a_record_may_be_anything():
    """Any value at any place of a record is an error of one line, or gives a record that can be shown and checked."""
    valid = total = 0
    for make in mutants.systematic(valid_records()[0]):
        mutant = make()
        total += 1
        if message := _problem(mutant):
            assert "\n" not in message
            continue
        valid += 1
        report.summary(mutant)
        assert all(len(check.note) < 5000 for check in consistency.check_record(mutant))
    assert total > 5_000
    assert valid > 500


def _problem(made):
    try:
        records.validate(made)
    except records.RecordError as error:
        return str(error)
    return ""


def test_compare_reads_every_mutant_or_skips_it_with_a_message(mutated):
    """Each mutant is on a board or skipped by name; all formats are written, equally in two runs."""
    done = CliRunner().invoke(compare.command, [str(mutated)], catch_exceptions=False, standalone_mode=False)
    assert not done.return_value
    out = mutated / folders.FOLDER
    whole = folders.load([mutated], out=out)
    assert whole.total + len(whole.problems) == COUNT + 1
    assert whole.total > COUNT / 10  # or else almost all mutants would be refused as unreadable
    written = contents(out)
    assert done.stderr.count("skipped ") == len(whole.problems)
    files.write_leaderboard(whole, out, ["md", "tex", "csv", "json"])
    assert contents(out) == written


def test_show_prints_every_readable_mutant(readable):
    """`show` and `show --json` print every record that can be read: here, a random part of them."""
    draw = random.Random(mutants.SEED)
    for record_read in draw.sample([*readable.values()], 300):
        report.render(report.summary(record_read)).encode("utf-8", "replace")
        assert json.loads(records.dumps(record_read)) == record_read


def test_verify_gives_every_mutant_a_verdict(mutated):
    """`verify` gives one verdict for every file, also for those that are not records."""
    found = list(verify([mutated], evaluate=False))
    assert len(found) >= COUNT
    assert all("\n" not in check.note for finding in found for check in finding.checks)


def test_merge_copies_mutants_or_names_a_conflict(mutated, readable, tmp_path):
    """A merge of all mutants is planned; those without a conflict are copied, and the copies are readable."""
    plan = plan_merge([mutated], tmp_path / "all")
    assert json.loads(json.dumps(plan.summary()))["conflicts"]
    (tmp_path / "some").mkdir()
    seen = {}
    for path, made in readable.items():
        if len(seen) < 200 and seen.setdefault(made["hash"][:8], path) == path:
            shutil.copytree(path.parent, tmp_path / "some" / path.parent.name, dirs_exist_ok=True)
    plan = plan_merge([tmp_path / "some"], tmp_path / "merged")
    assert not plan.conflicts
    execute(plan)
    assert len(store.scan([tmp_path / "merged"]).records) == len(seen)


def test_export_refuses_or_exports_every_mutant_of_a_run(tiny_run, tmp_path, capsys):
    """`export` of a run with real weights and a mutant of its record ends with an exit code and at most one line."""
    draw = random.Random(mutants.SEED)
    run = shutil.copytree(tiny_run(), tmp_path / "run")
    made = record_of(run)
    codes = set()
    for make in draw.sample(mutants.systematic(made), 150):
        mutant = make()
        (run / store.RUN).write_text(json.dumps(mutant))
        code = invoke(["export", str(run), "--format", "safetensors", "--out", str(tmp_path / "out"), "--force"])
        codes.add(code)
        assert code in (0, 2, 3, 4), mutant
        assert capsys.readouterr().err.count("\n") <= 1
    assert codes >= {0, 2, 3}


def test_odd_files_are_skipped_by_name(tmp_path):
    """Circular and dangling links, a device, a pipe, a folder and an oversized file are skipped without waiting."""
    put(tmp_path, record())
    odd = {name: tmp_path / name / "run.json" for name in ("circle", "device", "nowhere", "pipe", "folder", "large")}
    for path in odd.values():
        path.parent.mkdir()
    odd["circle"].symlink_to(odd["circle"])
    odd["device"].symlink_to("/dev/zero")
    odd["nowhere"].symlink_to(tmp_path / "gone")
    os.mkfifo(odd["pipe"])
    odd["folder"].mkdir()
    odd["large"].write_bytes(b" " * (store.LARGEST_FILE + 1))
    whole = folders.load([tmp_path])
    assert whole.total == 1
    assert {path.split("/")[1] for path, _ in whole.problems} == odd.keys() - {"folder"}
