"""Scores are measured again, exactly on the record's machine and with a stated tolerance on others."""

from __future__ import annotations

import pytest
import torch

import verify_cases as cases
from pruneboard.artifacts.verification import evaluation
from pruneboard.records import provenance
from verify_cases import edit, failed, found


@pytest.mark.parametrize(("split", "by"), [("test", 1), ("validation", -1), ("test", 40)])
def test_an_edited_accuracy_is_caught(one, split, by):
    """One image more or less, with a matching top-1, is found when the network is evaluated."""
    correct = cases.record_of(one)["metrics"][split]["correct"]
    cases.set_correct(one, split, correct + by)
    assert failed(one) == {f"evaluation.{split}"}
    assert f"the record says {correct + by}" in cases.note(found(one), f"evaluation.{split}")


@pytest.mark.parametrize("value", [{"loss": 1e-3}, {"worst_class_top1": 0.0123}, {"top5": 0.9}], ids=str)
def test_the_other_scores_are_measured_too(one, value):
    """Loss, worst class and top-5 are compared as well."""
    edit(one, **{f"metrics__test__{name}": number for name, number in value.items()})
    assert failed(one) == {"evaluation.test"}


def test_the_share_of_the_largest_class_is_checked(one):
    """It decides which rows are ranked, and is compared with the images; older records lack it."""
    assert failed(one) == set()
    edit(one, data__majority=0.99)
    assert failed(one) == {"evaluation.data"}
    assert "data.majority is 0.99; the largest class has 0." in cases.note(found(one), "evaluation.data")


def test_other_hardware_has_a_stated_tolerance(one):
    """A record from another processor may differ by two images, which the note states, but not by three."""
    correct = cases.record_of(one)["metrics"]["test"]["correct"]
    edit(one, hardware__processor="another")
    cases.set_correct(one, "test", correct + 2)
    finding = found(one)
    assert finding.verdict == "certified"
    assert cases.note(finding, "evaluation.test").endswith("on other hardware")
    cases.set_correct(one, "test", correct + 3)
    assert failed(one) == {"evaluation.test"}


def test_there_is_no_tolerance_on_the_same_machine():
    """The tolerance is zero only if device, processor, threads, torch and process count equal the record's."""
    hardware = {"device": "cpu", "processor": provenance.processor(), "threads": torch.get_num_threads()}
    same = {
        "hardware": hardware,
        "software": {"torch": provenance.version_of("torch")},
        "engine": {"world_size": 1},
    }
    assert evaluation.tolerance_for(same, 10_000).images == 0
    assert evaluation.tolerance_for(same | {"engine": {"world_size": 2}}, 10_000).images == 10
    assert evaluation.tolerance_for(same | {"hardware": hardware | {"device": "cuda"}}, 355).images == 2


def test_missing_data_is_noted_and_not_disputed(one, tmp_path):
    """If a data set needs a folder and none is given, or the folder lacks it, the check is skipped with a reason."""
    edit(one, data__name="cifar10", board__data="cifar10")
    cases.rehash(one)
    for how, reason in (({}, "needs --data-dir"), ({"data_dir": str(tmp_path)}, "cifar10 is not in")):
        finding = found(one, **how)
        assert finding.verdict == "spot-checked"
        assert reason in cases.note(finding, "evaluation.data")


def test_a_record_cannot_ask_for_a_batch_that_fills_the_memory(one, monkeypatch):
    """The recorded batch size is used up to a number of pixels, because activations take memory in proportion."""
    sizes = []
    plan = evaluation.BatchPlan.for_evaluation

    def noted(size, device):
        sizes.append(size)
        return plan(size, device)

    monkeypatch.setattr(evaluation.BatchPlan, "for_evaluation", noted)
    side = cases.record_of(one)["data"]["image_size"]
    monkeypatch.setattr(evaluation, "MAX_PIXELS", 10 * side**2)
    found(one)
    assert sizes == [10, 10]
