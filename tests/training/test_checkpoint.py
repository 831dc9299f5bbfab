"""Checkpoints: what they contain, when they are saved, and which one a run is resumed from."""

from __future__ import annotations

import functools
import json
import math

import pytest
import safetensors.torch
import torch

from pruneboard.errors import InterruptedRunError, UsageError
from pruneboard.records import runfolder
from pruneboard.training import checkpoint_file
from pruneboard.training.checkpoint import Checkpointer
from resume_cases import RUNS, assert_same_run, first_steps, signal_at
from runs import folder, run


def test_checkpoints_are_saved_every_n_steps_and_two_are_kept(tmp_path, monkeypatch):
    """With `checkpoint_every=3` in epochs of four steps: 3, 4, 6, 8, 9, 12, and at any time the two newest."""
    seen = []
    add = runfolder.add_checkpoint

    def watched(place, step, write):
        add(place, step, write)
        seen.append([int(path.stem[-9:]) for path in runfolder.checkpoints(place)])

    monkeypatch.setattr(runfolder, "add_checkpoint", watched)
    run(tmp_path, overrides={"epochs": 3}, checkpoint_every=3)
    assert seen == [[3], [4, 3], [6, 4], [8, 6], [9, 8], [12, 9]]


def test_a_checkpoint_has_whole_tensors_and_no_pickle(tmp_path, monkeypatch):
    """Any safetensors reader finds weights and optimizer tensors in their full shapes, and the step in the header."""
    signal_at(monkeypatch, 3)
    with pytest.raises(InterruptedRunError):
        run(tmp_path, "probmask", zero=2)
    (path,) = runfolder.checkpoints(folder(tmp_path))
    with safetensors.safe_open(path, "pt") as file:
        assert json.loads(file.metadata()[checkpoint_file.METADATA_KEY])["state"]["step"] == 3
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    weight = "fc.parametrizations.weight.original"
    assert shapes[f"network/{weight}"] == shapes[f"optimizer/momentum_buffer/{weight}"] == (10, 96)


def test_a_damaged_checkpoint_is_skipped(tmp_path, monkeypatch):
    """If the newest file is damaged, the run resumes from the one before; if both are, the message names --force."""
    for name in ("one", "both"):
        with monkeypatch.context() as patch:
            signal_at(patch, 6)
            with pytest.raises(InterruptedRunError):
                run(tmp_path / name, "probmask")
    newest, before = runfolder.checkpoints(folder(tmp_path / "one"))
    newest.write_bytes(newest.read_bytes()[:1000])
    run(tmp_path / "one", "probmask")
    assert (before.stem, first_steps(tmp_path / "one")) == ("step-000000004", [0, 4])
    for path in (tmp_path / "both").rglob("step-*"):
        path.write_bytes(b"")
    with pytest.raises(UsageError, match=r"no checkpoint in .* can be read: start again with --force"):
        run(tmp_path / "both", "probmask")
    assert len(run(tmp_path / "both", "probmask", force=True)["lifecycle"]["attempts"]) == 1
    assert_same_run(tmp_path / "one", tmp_path / "both")


def test_one_flipped_bit_in_a_weight_does_not_change_the_result(tmp_path, monkeypatch, caplog):
    """A checkpoint with a flipped bit is refused by name in one line; the run resumes from the one before."""
    run(tmp_path / "straight")
    with monkeypatch.context() as patch:
        signal_at(patch, 6)
        with pytest.raises(InterruptedRunError):
            run(tmp_path / "flipped")
    path = runfolder.checkpoints(folder(tmp_path / "flipped"))[0]
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)
    caplog.clear()
    run(tmp_path / "flipped")
    assert first_steps(tmp_path / "flipped") == [0, 4]
    assert_same_run(tmp_path / "straight", tmp_path / "flipped")
    warnings = {record.getMessage() for record in caplog.records if record.levelname == "WARNING"}
    (warning,) = warnings
    assert warning.startswith("checkpoint step-000000006.safetensors is damaged and is not used: the checksum of ")
    assert "\n" not in warning


STATE = {
    "step": 6, "epoch_steps": 2, "epoch_loss": math.nan, "best_validation": {}, "scoring_passes": 0,
    "validations": 0, "validation_passes": 0, "gates_sha256": None, "hook_seconds": 0.0, "seconds": 1.0,
    "attempts": [{}],
}  # fmt: skip
GOOD = {"identity": {"code": "a"}, "state": STATE}


def saved_step(place, header):
    """Write the checkpoints of steps 4 (good) and 6 (with `header`), and return the step of the one that is used."""
    for step, content in ((4, GOOD | {"state": STATE | {"step": 4}}), (6, header)):
        write = functools.partial(checkpoint_file.write, header=content, tensors={"network/a": torch.ones(1)})
        runfolder.add_checkpoint(place, step, write)
    checkpointer = Checkpointer(place, 0, {"code": "a"})
    checkpointer.check_resumable()
    return checkpointer._newest().state.step


BAD = {
    **{f"without state.{name}": GOOD | {"state": {k: v for k, v in STATE.items() if k != name}} for name in STATE},
    **{f"without {name}": {k: v for k, v in GOOD.items() if k != name} for name in GOOD},
    "unknown name": GOOD | {"state": STATE | {"another\nname": 1}},
    "text for a number": GOOD | {"state": STATE | {"step": "6"}},
    "number for a hash": GOOD | {"state": STATE | {"gates_sha256": 6}},
    "list for an object": GOOD | {"state": [STATE]},
    "null for an object": GOOD | {"identity": None},
}


@pytest.mark.parametrize("header", BAD.values(), ids=BAD)
def test_a_header_that_lacks_a_key_is_refused_and_the_older_checkpoint_taken(tmp_path, caplog, header):
    """Whichever entry is missing, unknown or of another type, one line says so, and the checkpoint before is used."""
    assert saved_step(tmp_path, GOOD) == 6
    caplog.clear()
    assert saved_step(tmp_path, header) == 4
    messages = {record.getMessage() for record in caplog.records}
    assert len(messages) == 1
    assert messages.pop().startswith("checkpoint step-000000006.safetensors is damaged and is not used: ")
    assert not any("\n" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("identity", [{}, {"code": "b"}, {"code": "a", "torch": "3"}])
def test_a_checkpoint_of_other_code_is_refused(tmp_path, identity):
    """Its identity must have the same names and values as this run's; the message says what differs."""
    with pytest.raises(UsageError, match=r"was started with (code|torch) .*, and it is now .*: resume it under"):
        saved_step(tmp_path, GOOD | {"identity": identity})


@pytest.mark.parametrize(
    ("first", "second", "name"), [pytest.param(0, 1, "str", marks=pytest.mark.slow), (2, 0, "supermask edge-popup")]
)
def test_a_run_resumes_at_another_zero_stage(tmp_path, monkeypatch, first, second, name):
    """A run that resumes at another ZeRO stage ends as an uninterrupted one, up to rounding, with the exact count."""
    options = RUNS[name] | {"overrides": {"epochs": 3, "lr": 0.01}}
    straight = run(tmp_path / "straight", **options)
    with monkeypatch.context() as patch:
        signal_at(patch, 6)
        with pytest.raises(InterruptedRunError):
            run(tmp_path / "changed", zero=first, **options)
    changed = run(tmp_path / "changed", zero=second, **options)
    assert [a["zero"] for a in changed["lifecycle"]["attempts"]] == [first, second]
    assert changed["sparsity"]["kept"] == straight["sparsity"]["kept"]
    weights = [safetensors.torch.load_file(folder(tmp_path / n) / "model.safetensors") for n in ("straight", "changed")]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=1e-3, atol=1e-4)
