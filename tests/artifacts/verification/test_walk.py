"""`pruneboard verify`: honest runs are certified, and what was edited is found by the check that is about it."""

from __future__ import annotations

import json
import os

import pytest
import torch

import verify_cases as cases
from pruneboard.artifacts.verification import reevaluate
from pruneboard.cli import invoke
from pruneboard.draws import key
from pruneboard.records import provenance, store, verdicts
from pruneboard.records.schema import fingerprint
from runs import folder as run_folder
from runs import run
from verify_cases import copied, edit, failed, found


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a real run, trained for eight steps and pruned to 0.9. Not to be written to."""
    results = tmp_path_factory.mktemp("trained")
    run(results)
    return run_folder(results)


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    """The folder of a supermask run: a random mask over frozen weights. Not to be written to."""
    results = tmp_path_factory.mktemp("frozen")
    run(results, "random", 0.5, track="supermask")
    return run_folder(results)


@pytest.fixture
def one(trained, tmp_path):
    """A copy of the trained run."""
    return copied(trained, tmp_path / "run")


# What honest runs are


def test_an_honest_run_is_certified(trained):
    """Every check of all four levels holds: nothing fails, and nothing is left out."""
    finding = found(trained)
    assert finding.verdict == "certified"
    assert {check.status for check in finding.checks} == {"ok"}
    assert {check.name.partition(".")[0] for check in finding.checks} == {"record", "mask", "weights", "evaluation"}


@pytest.mark.parametrize("ablation", [None, "redrawn-weights"])
def test_an_honest_supermask_is_certified(frozen, ablation, tmp_path):
    """On that track the weights are also drawn anew, those of an ablation as the ablation draws them."""
    if ablation:
        run(tmp_path, "random", 0.5, track="supermask", ablation=ablation)
    finding = found(run_folder(tmp_path) if ablation else frozen)
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
def test_a_copy_is_what_can_be_looked_at(trained, tmp_path, without, verdict):
    """Without weights the masks are counted; without masks nothing is certified that names them; without both ..."""
    finding = found(copied(trained, tmp_path / "run", *without))
    assert (finding.verdict, finding.of("failed")) == (verdict, [])


def test_without_evaluation_weights_are_recounted(trained):
    """`--no-data` leaves the scores out, and says so."""
    finding = found(trained, evaluate=False)
    assert finding.verdict == "spot-checked"
    assert [check.name for check in finding.of("skipped")] == ["evaluation.data"]


def test_records_that_name_no_masks_are_certified_by_their_weights(one):
    """Before there were packed masks the weights alone held the counts."""
    made = cases.record_of(one)
    del made["mask_sha256"]
    (one / store.RUN).write_text(json.dumps(made))
    (one / store.MASK).unlink()
    assert found(one).verdict == "certified"


def test_other_data_is_said_and_not_disputed(one, tmp_path):
    """A set that is not embedded needs its folder; one that is not there, or other images, dispute nothing."""
    edit(one, data__name="cifar10", board__data="cifar10")
    cases.rehash(one)
    for how, reason in (({}, "needs --data-dir"), ({"data_dir": str(tmp_path)}, "cifar10 is not in")):
        finding = found(one, **how)
        assert finding.verdict == "spot-checked"
        assert reason in cases.note(finding, "evaluation.data")


def test_an_unfinished_run_is_a_record_and_no_more(one):
    """Nothing beside the record of a failure belongs to a result."""
    made = cases.record_of(one)
    for block in ("metrics", "cost", "weights_sha256", "mask_sha256"):
        del made[block]
    made |= {"status": "diverged", "error": {"kind": "DivergedError", "message": "no"}}
    made["sparsity"] = {"target": 0.9}
    (one / store.RUN).write_text(json.dumps(made))
    assert found(one).verdict == "record-only"


# Accuracy


@pytest.mark.parametrize(("split", "by"), [("test", 1), ("validation", -1), ("test", 40)])
def test_an_edited_accuracy_is_caught(one, split, by):
    """One image more than there are, top-1 and all, and the network measured anew says so."""
    correct = cases.record_of(one)["metrics"][split]["correct"]
    cases.set_correct(one, split, correct + by)
    assert failed(one) == {f"evaluation.{split}"}
    assert f"the record says {correct + by}" in cases.note(found(one), f"evaluation.{split}")


def test_an_accuracy_edited_alone_is_no_record(one):
    """Top-1 that its own counts contradict is refused by the schema; the run is disputed, not left out."""
    edit(one, metrics__test__top1=0.99)
    finding = found(one)
    assert (finding.verdict, [check.name for check in finding.checks]) == ("disputed", ["record.schema"])


@pytest.mark.parametrize("value", [{"loss": 1e-3}, {"worst_class_top1": 0.0123}, {"top5": 0.9}], ids=str)
def test_the_other_scores_are_measured_too(one, value):
    """Loss, the worst class and top-5 are the network's as well."""
    edit(one, **{f"metrics__test__{name}": number for name, number in value.items()})
    assert failed(one) == {"evaluation.test"}


def test_other_hardware_gets_a_tolerance_that_is_said(one):
    """A record of another processor may be two images off, or one in a thousand, and not three."""
    correct = cases.record_of(one)["metrics"]["test"]["correct"]
    edit(one, hardware__processor="another")
    cases.set_correct(one, "test", correct + 2)
    finding = found(one)
    assert finding.verdict == "certified"
    assert cases.note(finding, "evaluation.test").endswith("on other hardware")
    cases.set_correct(one, "test", correct + 3)
    assert failed(one) == {"evaluation.test"}


def test_the_tolerance_is_none_on_the_same_machine():
    """Device, processor, threads, torch and one process must all be the record's."""
    hardware = {"device": "cpu", "processor": provenance.processor(), "threads": torch.get_num_threads()}
    same = {
        "hardware": hardware,
        "software": {"torch": provenance.version_of("torch")},
        "engine": {"world_size": 1},
    }
    assert reevaluate.allowed(same, 10_000).images == 0
    assert reevaluate.allowed(same | {"engine": {"world_size": 2}}, 10_000).images == 10
    assert reevaluate.allowed(same | {"hardware": hardware | {"device": "cuda"}}, 355).images == 2


# Zeros


def test_an_edited_count_of_zeros_is_caught(one):
    """More zeros than there are, consistent in every sum: by the weights, or by the bound on kept zeros."""
    cases.set_counts(one, {5: {"nonzero": -2}})
    assert failed(one) == {"weights.counts", "weights.mask"}
    cases.set_counts(one, {5: {"nonzero": -100}})
    (one / store.WEIGHTS).unlink()
    assert failed(one) == {"record.sparsity"}


def test_weights_said_to_have_a_part_are_followed_anew(one):
    """Another number of weights on a path, consistent in every sum, is found by the network; as is a size."""
    made = cases.record_of(one)
    sparsity = made["sparsity"]
    assert 0 < sparsity["alive"] < sparsity["nonzero"]
    sparsity["layers"][5]["alive"] -= 1
    alive = sparsity["alive"] - 1
    edit(one, sparsity__layers=sparsity["layers"], sparsity__alive=alive)
    edit(one, sparsity__effective=(sparsity["prunable"] - alive) / sparsity["prunable"])
    assert failed(one) == {"weights.network"}
    assert "sparsity.layers.5.alive is" in cases.note(found(one), "weights.network")


@pytest.mark.parametrize("path", ["cost__bytes__compressed", "cost__macs_attention", "cost__bytes__csr"])
def test_an_edited_cost_is_caught(one, path):
    """Sizes and multiply-adds that the record alone does not decide are those of its network and its weights."""
    edit(one, **{path: 1})
    assert failed(one) == {"weights.network"}
    assert path.replace("__", ".") in cases.note(found(one), "weights.network")


def test_another_zlib_may_come_to_another_size(one):
    """The compressed size may be a few percent off, as another build of zlib makes it."""
    edit(one, cost__bytes__compressed=round(1.02 * cases.record_of(one)["cost"]["bytes"]["compressed"]))
    assert failed(one) == set()


def test_a_kept_count_that_misses_the_budget_is_caught(one):
    """Fewer positions than n - round(sparsity * n) contradict the target, which the hash covers."""
    cases.set_counts(one, {5: {"nonzero": -100, "kept": -100}})
    assert {"record.sparsity", "mask.counts"} <= failed(one)


def test_swapped_layers_are_caught(one):
    """Equal sums and other layers: masks and weights are counted layer by layer."""
    cases.set_counts(one, {5: {"nonzero": -7, "kept": -7}, 6: {"nonzero": 7, "kept": 7}})
    assert failed(one) == {"mask.counts", "weights.counts"}
    (one / store.WEIGHTS).unlink()
    assert failed(one) == {"mask.counts"}


# Masks


def test_edited_mask_bits_are_caught(one):
    """A moved position keeps every count: the hash says so, or, where it was edited as well, the weights do."""
    cases.set_masks(one, cases.swap)
    assert failed(one) == {"mask.hash", "weights.mask"}
    cases.hash_masks(one)
    assert failed(one) == {"weights.mask"}


def test_an_added_mask_bit_is_caught_without_weights(one):
    """One position more is another count."""
    cases.set_masks(one, lambda bits: bits.__setitem__(bits.argmin(), True))
    cases.hash_masks(one)
    (one / store.WEIGHTS).unlink()
    assert failed(one) == {"mask.counts"}


# Weights


def test_edited_weights_are_caught(one):
    """By their hash; or, where it was edited to match, by what the network answers."""
    cases.set_weights(one, cases.double)
    assert failed(one) == {"weights.hash"}
    cases.hash_weights(one)
    assert failed(one) >= {"evaluation.test", "evaluation.validation"}


def test_added_and_removed_weights_are_caught(one):
    """A zero that is none, and a weight that is one, both at once and under a new hash."""
    cases.set_weights(one, cases.move)
    cases.hash_weights(one)
    assert failed(one) == {"weights.mask"}


def test_edited_frozen_weights_are_caught(frozen, tmp_path):
    """On the supermask track trained weights are no initial ones, whatever their hash and their scores."""
    one = copied(frozen, tmp_path / "run")
    cases.set_weights(one, cases.flip)
    cases.hash_weights(one)
    assert "weights.frozen" in failed(one)


def test_weights_of_another_network_are_caught(one):
    """A tensor that the model does not have, under a hash that knows it."""
    cases.set_weights(one, lambda state: state.update(extra=torch.ones(3)))
    cases.hash_weights(one)
    assert failed(one) == {"weights.network"}


# What was asked for


@pytest.mark.parametrize(
    "values",
    [
        {"method__options__prune_at": 0.25},
        {"method__version": "9"},
        {"recipe__momentum": 0.5, "board__recipe__momentum": 0.5},
        {"seed": 1},
        {"data__split_sha256": "0" * 64},
        {"model__init": "pretrained", "board__init": "pretrained"},
    ],
    ids=str,
)
def test_what_was_asked_for_is_covered_by_the_hash(one, values):
    """Options, recipe, seed, data and start cannot be edited under the same content hash."""
    edit(one, **values)
    made = cases.record_of(one)
    edit(one, board__fingerprint=fingerprint(made["board"]))
    assert "record.hash" in failed(one, evaluate=False)


def test_a_seed_edited_with_its_hash_is_caught(one):
    """The seed decides every other seed, and which images validate."""
    edit(one, seed=1)
    cases.rehash(one)
    assert failed(one) == {"record.seeds"}
    edit(one, seeds={name: key(1, name) for name in cases.record_of(one)["seeds"]})
    assert failed(one) == {"evaluation.data"}


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
def test_a_hostile_record_builds_nothing_of_its_own(one, values, monkeypatch):
    """With a hash that agrees, what a record names is planned anew or refused: no fetching, no path, no crash."""
    monkeypatch.setattr(
        "pruneboard.artifacts.verification.consistency.RULES", ()
    )  # so that it comes to the network and the data at all
    edit(one, **values)
    cases.rehash(one)
    assert found(one, data_dir=str(one)).verdict in ("disputed", "spot-checked")


# Files that are none


@pytest.mark.parametrize("name", [store.MASK, store.WEIGHTS])
@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 100, b"PK\x03\x04", b"\xff" * 5000, "half", "folder", "pipe", "link"]
)
def test_damaged_files_are_disputed(one, name, content):
    """Truncated, garbage or no regular file at all: the run is disputed by the check of the file, and nothing hangs."""
    path = one / name
    whole = path.read_bytes()
    path.unlink()
    if isinstance(content, bytes) or content == "half":
        path.write_bytes(content if isinstance(content, bytes) else whole[: len(whole) // 2])
    else:
        {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "link": lambda: path.symlink_to("nowhere")}[content]()
    assert failed(one, evaluate=False) == {"mask.file" if name == store.MASK else "weights.file"}


def test_a_log_that_tells_another_story_is_disputed(one):
    """The best epoch of the record is the best of `metrics.jsonl`."""
    edit(one, metrics__best_validation__top1=1.0)
    assert failed(one, evaluate=False) == {"record.log"}
    (one / "metrics.jsonl").write_bytes(b"{}\n")
    assert failed(one, evaluate=False) == {"record.log"}


# The command


def test_the_command_prints_a_line_a_run_and_ends_with_three(trained, tmp_path, capsys):
    """One line for each, what fails below it, the counts at the end; 3 where a run is disputed, else 0."""
    for name, without in (("a", ()), ("b", (store.WEIGHTS, store.MASK))):
        copied(trained, tmp_path / name, *without)
    assert invoke(["verify", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["certified", "record-only", "2"]
    edit(tmp_path / "b", method__options__prune_at=0.25)
    assert invoke(["verify", str(tmp_path), "--no-data"]) == 3
    out, err = capsys.readouterr()
    assert "    record.hash: " in out
    assert err.startswith("error: 1 of 2 runs disputed")


def test_json_is_one_document(one, capsys):
    """Runs with their checks and notes, and the counts."""
    edit(one, seed=1)
    assert invoke(["verify", str(one), "--json", "--no-data"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert document["counts"] == {"certified": 0, "spot-checked": 0, "record-only": 0, "disputed": 1}
    (made,) = document["runs"]
    assert made["checks"]["record.hash"] == "failed"
    assert "fields make it" in made["notes"]["record.hash"]


def test_a_broken_record_is_disputed_and_none_is_four(tmp_path, capsys):
    """A file that is no record is a finding here; a folder without one is an error, as a wrong flag is."""
    assert invoke(["verify", str(tmp_path)]) == 4
    assert invoke(["verify", str(tmp_path / "nowhere")]) == 4
    assert invoke(["verify"]) == 2
    (tmp_path / store.RUN).write_bytes(b"{")
    assert invoke(["verify", str(tmp_path)]) == 3
    assert "record.schema: is not JSON" in capsys.readouterr().out


def test_text_of_a_record_cannot_steer_a_terminal(one, capsys):
    """Names from a record are printed without control characters."""
    made = cases.record_of(one)
    made["sparsity"]["layers"][0]["name"] = "\x1b[31m<script>"
    (one / store.RUN).write_text(json.dumps(made))
    assert invoke(["verify", str(one), "--no-data"]) == 3
    out = capsys.readouterr().out
    assert "<script>" in out
    assert "\x1b" not in out


def test_verified_json_is_the_same_twice(trained, tmp_path):
    """Equal input gives equal bytes, and the file is no input of the next time."""
    copied(trained, tmp_path / "run", store.WEIGHTS)
    path = tmp_path / "leaderboard" / verdicts.FILE
    assert invoke(["verify", str(tmp_path)]) == 0
    once = path.read_bytes()
    assert invoke(["verify", str(tmp_path)]) == 0
    assert path.read_bytes() == once
    assert verdicts.read(path) == {verdicts.file_sha256(tmp_path / "run" / store.RUN): "spot-checked"}
