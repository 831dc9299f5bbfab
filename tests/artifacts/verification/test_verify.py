"""A verdict states how much of a run was checked: unmodified runs are certified, and records without files are not."""

from __future__ import annotations

import json

import pytest

import verify_cases as cases
from pruneboard.artifacts.verification import verify
from pruneboard.errors import NotFoundError
from pruneboard.records import store
from pruneboard.records.verdicts import RunCheck
from verify_cases import copied, edit, found


def test_an_unmodified_run_is_certified(trained):
    """Every check of all four levels passes, and none is skipped."""
    finding = found(trained)
    assert finding.verdict == "certified"
    assert {check.status for check in finding.checks} == {"ok"}
    assert {check.name.partition(".")[0] for check in finding.checks} == {"record", "mask", "weights", "evaluation"}


@pytest.mark.parametrize("ablation", [None, "redrawn-weights"])
def test_an_unmodified_supermask_is_certified(frozen, ablation, tiny_run):
    """A supermask run is certified if its weights equal those drawn again, even for an ablation that redraws."""
    finding = found(tiny_run("random", 0.5, track="supermask", ablation=ablation) if ablation else frozen)
    assert finding.verdict == "certified"
    assert "weights.frozen" in {check.name for check in finding.of("ok")}


@pytest.mark.parametrize(
    ("without", "verdict"),
    [
        ((store.WEIGHTS,), "spot-checked"),
        ((store.MASK,), "spot-checked"),
        ((store.WEIGHTS, store.MASK), "record-only"),
        ((store.WEIGHTS, store.MASK, "metrics.jsonl", "log.txt"), "record-only"),
    ],
    ids=" ".join,
)
def test_missing_files_lower_the_verdict(trained, tmp_path, without, verdict):
    """Without weights the masks are counted, and without masks the weights; without both only the record is checked."""
    finding = found(copied(trained, tmp_path / "run", *without))
    assert (finding.verdict, finding.of("failed")) == (verdict, [])


def test_no_data_skips_only_the_scores(trained):
    """Without evaluation the run is spot-checked, and the skipped check is listed."""
    finding = found(trained, evaluate=False)
    assert finding.verdict == "spot-checked"
    assert [check.name for check in finding.of("skipped")] == ["evaluation.data"]


def test_records_without_a_mask_hash_are_certified_by_their_weights(one):
    """Early records have no packed masks; their weights alone prove the counts."""
    record = cases.record_of(one)
    del record["mask_sha256"]
    (one / store.RUN).write_text(json.dumps(record))
    (one / store.MASK).unlink()
    assert found(one).verdict == "certified"


def test_an_unfinished_run_is_record_only(one):
    """The files next to the record of a failed run are not checked, because they belong to no result."""
    record = cases.record_of(one)
    for block in ("metrics", "cost", "weights_sha256", "mask_sha256"):
        del record[block]
    record |= {"status": "diverged", "error": {"kind": "DivergedError", "message": "no"}}
    record["sparsity"] = {"target": 0.9}
    (one / store.RUN).write_text(json.dumps(record))
    assert found(one).verdict == "record-only"


def test_an_invalid_record_is_disputed(one):
    """If top-1 contradicts the counts, the schema rejects the record; the run is disputed, not omitted."""
    edit(one, metrics__test__top1=0.99)
    finding = found(one)
    assert (finding.verdict, [check.name for check in finding.checks]) == ("disputed", ["record.schema"])


@pytest.mark.parametrize(
    "values",
    [
        {"model__create_args": {"num_classes": 10, "pretrained": True}},
        {"model__create_args": {"num_classes": 10, "checkpoint_path": "/etc/passwd"}},
        {"model__name": "hf-hub:timm/resnet18.a1_in1k"},
        {"model__name": "local-dir:/etc"},
        {"model__name": "resnet18"},
        {"model__stem": "other"},
        {"data__image_size": 10**6},
        {"data__image_size": [32]},
        {"data__classes": 10**9},
        {"data__limit_train": "all"},
        {"data__limit_train": -5},
        {"data__name": "nowhere"},
        {"data__name": "../../etc"},
        {"data__sha256": None},
        {"recipe__val_fraction": "half"},
        {"recipe__val_fraction": []},
        {"recipe__val_fraction": 1e300},
        {"sparsity__layers": []},
    ],
    ids=str,
)
def test_a_hostile_record_causes_no_crash(one, values, monkeypatch):
    """With a matching hash, whatever a record names is planned again or refused: no download, no path and no crash."""
    # Without rules, so that the checks reach the network and the data.
    monkeypatch.setattr("pruneboard.artifacts.verification.consistency.RULES", ())
    edit(one, **values)
    cases.rehash(one)
    assert found(one, data_dir=str(one)).verdict in ("disputed", "spot-checked")


def test_one_failed_check_disputes_a_run(trained):
    """If any one check of a certified run had failed, the run would be disputed; if it were skipped, not certified."""
    finding, record = found(trained), cases.record_of(trained)
    required = verify.required_checks(record)
    for index, check in enumerate(finding.checks):
        for status, allowed in (("failed", {"disputed"}), ("skipped", {"spot-checked", "certified"})):
            checks = [*finding.checks[:index], RunCheck(check.name, status), *finding.checks[index + 1 :]]
            verdict = verify.verdict_of(record, checks)
            assert verdict in allowed, (check.name, status)
            assert (verdict == "certified") == (status == "skipped" and check.name not in required)


def test_a_missing_path_is_an_error(tmp_path):
    """A path that does not exist, or has no record below it, is an error and not an empty result."""
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(NotFoundError):
            list(verify.verify([path]))


@pytest.mark.parametrize(
    ("name", "check"),
    [(store.MASK, "mask.file"), (store.WEIGHTS, "weights.file"), ("metrics.jsonl", "record.log")],
)
def test_a_file_behind_a_link_is_not_read(one, tmp_path, name, check):
    """A file of a run that is a link out of its folder is disputed, whatever it leads to."""
    (one / name).rename(tmp_path / name)
    (one / name).symlink_to(tmp_path / name)
    assert check in cases.failed(one, evaluate=False)
    assert cases.note(cases.found(one, evaluate=False), check).endswith(store.LEADS_OUT)


def test_a_record_behind_a_link_is_not_identified(one, tmp_path):
    """The hash of a file outside the folder is not published."""
    (one / store.RUN).rename(tmp_path / store.RUN)
    (one / store.RUN).symlink_to(tmp_path / store.RUN)
    finding = cases.found(one)
    assert (finding.verdict, finding.sha256) == ("disputed", None)
