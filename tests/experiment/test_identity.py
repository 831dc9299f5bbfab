"""The content hash and the board's fields: what they depend on, and what they do not."""

from __future__ import annotations

import json

import pytest

from pruneboard.errors import UsageError
from pruneboard.experiment import identity
from pruneboard.experiment.identity import init_identity
from pruneboard.experiment.prepare import prepare
from runs import tiny

HOW_A_RUN_IS_COMPUTED = [
    {"zero": 2},
    {"checkpoint_every": 7},
    {"tensorboard": True},
    {"force": True},
    {"check_images": True},
    {"tuning_trials": 3, "tuning_source": "elsewhere"},
    {"model": "test_vit", "procs": 2},
]

WHAT_DECIDES_THE_RESULT = [
    {"method": "gmp"},
    {"sparsity": 0.8},
    {"seed": 1},
    {"options": {"prune_at": 0.25}},
    {"overrides": {"lr": 0.07}},
    {"overrides": {"norm_batch": 16}},
    {"precision": "bf16"},
    {"limit_train": 200},
    {"model": "test_resnet", "stem": "small"},
]
NOT_IN_A_BOARD = WHAT_DECIDES_THE_RESULT[:4]


def base_record(place, **changes):
    """Return the blocks of a tiny run's record that are known before training."""
    return prepare(tiny(place, **changes))[0].base_record


@pytest.mark.parametrize("changes", HOW_A_RUN_IS_COMPUTED, ids=str)
def test_how_a_run_is_computed_is_not_in_the_content_hash(tmp_path, changes):
    """ZeRO stage, processes, checkpoints, output, checks, tuning and the results folder leave the hash as it is."""
    plain = {name: value for name, value in changes.items() if name == "model"}
    assert base_record(tmp_path / "a", **changes)["hash"] == base_record(tmp_path / "b", **plain)["hash"]


@pytest.mark.parametrize("changes", WHAT_DECIDES_THE_RESULT, ids=str)
def test_what_decides_the_result_is_in_the_content_hash(tmp_path, changes):
    """Another method, option, seed, recipe, precision, network or data set is another run."""
    assert base_record(tmp_path, **changes)["hash"] != base_record(tmp_path)["hash"]


def test_rows_of_one_board_differ_in_method_sparsity_seed_and_options_only(tmp_path):
    """These four leave the board's fields equal; every other change that decides the result is another board."""
    board = base_record(tmp_path)["board"]
    for changes in WHAT_DECIDES_THE_RESULT:
        assert (base_record(tmp_path, **changes)["board"] == board) is (changes in NOT_IN_A_BOARD), changes


def test_initial_weights_from_a_file_are_identified_by_content(tmp_path):
    """Equal files have equal identities wherever they are, other content has another, and rules stay as they are."""
    one, copy, other = (tmp_path / f"{name}.safetensors" for name in ("one", "copy", "other"))
    one.write_bytes(b"weights")
    copy.write_bytes(b"weights")
    other.write_bytes(b"others")
    assert init_identity(str(one)) == init_identity(str(copy)) != init_identity(str(other))
    assert str(tmp_path) not in init_identity(str(one))
    assert init_identity("kaiming-normal") == "kaiming-normal"
    with pytest.raises(UsageError, match=r"cannot read the initial weights .*: No such file"):
        init_identity(str(tmp_path / "missing.safetensors"))


def test_the_base_record_is_json_without_paths(tmp_path):
    """It can be sent to other processes and published."""
    record = base_record(tmp_path)
    assert json.loads(json.dumps(record)) == record
    assert str(tmp_path) not in json.dumps(record)


def test_the_majority_class_is_known_and_not_in_the_content_hash(tmp_path, monkeypatch):
    """The record has the share of the most frequent class of the test split; hashes stay those of earlier versions."""
    plain = base_record(tmp_path)
    _, dataset = prepare(tiny(tmp_path))
    shares = [float((dataset.test.labels == label).float().mean()) for label in range(len(dataset.classes))]
    assert plain["data"]["majority"] == pytest.approx(max(shares))
    monkeypatch.setattr(identity, "majority_share", lambda _: 0.5)
    changed = base_record(tmp_path)
    assert changed["data"]["majority"] == 0.5
    assert (changed["hash"], changed["board"]) == (plain["hash"], plain["board"])
