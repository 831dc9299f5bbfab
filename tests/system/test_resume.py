"""A run that was stopped or killed goes on, and ends as if nothing had happened, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import safetensors.torch
import torch

from killing import SPOTS, kill
from pruneboard.errors import InterruptedRunError, RunError, UsageError
from pruneboard.experiment import start
from pruneboard.experiment.prepare import prepare
from pruneboard.processes import interrupts
from pruneboard.records import runfolder, schema, store
from pruneboard.training import checkpoint, loop
from runs import folder, run, tiny

RUNS = {
    "dense": {"method": "dense", "sparsity": None},
    **{name: {"method": name} for name in ("gmp", "magnitude", "probmask", "random", "rigl", "snip", "str", "synflow")},
    "supermask edge-popup": {"method": "edge-popup", "track": "supermask", "sparsity": 0.5},
    "supermask probmask": {"method": "probmask", "track": "supermask", "sparsity": 0.5},
}
FORTY = {"overrides": {"epochs": 10}, "checkpoint_every": 5}
"""40 steps, in epochs of four: step 25 is within one, and within every method's search but random's."""

TWENTY = {"overrides": {"epochs": 5}, "checkpoint_every": 5}

COMMAND = [sys.executable, "-m", "pruneboard", "run", "--method", "magnitude", "--sparsity", "0.9", "--device", "cpu"]
COMMAND += ["--model", "test_resnet", "--limit-train", "142", "--batch-size", "32", "--warmup-epochs", "0"]


def check_equal(one, other):
    """Assert that two results folders hold the same run: record, metrics and weights, to the last bit."""
    texts = [schema.dumps(schema.canonical(store.read(folder(r) / "run.json"))) for r in (one, other)]
    assert texts[0] == texts[1]
    for name in ("metrics.jsonl", "model.safetensors", "mask.npz"):
        assert (folder(one) / name).read_bytes() == (folder(other) / name).read_bytes(), name


def attempts(results):
    """The steps at which the attempts of the one run went on."""
    return [attempt["step"] for attempt in store.read(folder(results) / "run.json")["lifecycle"]["attempts"]]


def stop(monkeypatch, step, number=signal.SIGTERM):
    """Let the signal arrive during `step`."""
    whole = loop._save_or_stop

    def stop_or_save(run, losses, request):
        if run.state.step == step:
            request.number = number
        whole(run, losses, request)

    monkeypatch.setattr(loop, "_save_or_stop", stop_or_save)


KILLED = "test_killed_run_goes_on_as_if_nothing_had_happened"
USUAL = ("supermask edge-popup",)
"""Those of RUNS that the default run kills; that every method resumes is a rule of the contract (tests/testing)."""


@pytest.fixture(scope="module")
def killed(tmp_path_factory, request):
    """The methods that are asked for, killed with SIGKILL after 25 of 40 steps, by one process that started them."""
    place = tmp_path_factory.mktemp("killed")
    asked = {item.callspec.params["name"] for item in request.session.items if item.originalname == KILLED}
    kill([("after the step", 25, place / name, RUNS[name] | FORTY) for name in sorted(asked)])
    return place


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in USUAL else pytest.mark.slow) for n in RUNS])
def test_killed_run_goes_on_as_if_nothing_had_happened(killed, tmp_path, name):
    """40 steps straight, and 25, kill -9 and the other 15, give the same record, metrics, masks and weights."""
    run(tmp_path, **RUNS[name], **FORTY)
    run(killed / name, **RUNS[name], **FORTY)
    assert attempts(killed / name) == [0, 25]
    check_equal(tmp_path, killed / name)
    assert not (folder(tmp_path) / "checkpoints").exists()


@pytest.mark.slow
def test_nothing_is_lost_wherever_the_kill_falls(tmp_path):
    """Killed before, within and around the writing of a checkpoint, a run goes on from it or from the one before.

    Step 16 ends an epoch, whose line of `metrics.jsonl` is written by then and would be there twice.
    """
    run(tmp_path / "straight", **TWENTY)
    kill([(spot, 16, tmp_path / spot, TWENTY) for spot in SPOTS])
    for spot in SPOTS:
        run(tmp_path / spot, **TWENTY)
        assert attempts(tmp_path / spot) == [0, 16 if spot == "after its rename" else 15], spot
        check_equal(tmp_path / "straight", tmp_path / spot)


@pytest.mark.parametrize("step", [4, 5, 8])
def test_a_stop_is_saved_at_its_step(tmp_path, monkeypatch, step):
    """Whether within an epoch, at its end or at the last step, SIGTERM finishes the step, saves, and costs nothing."""
    run(tmp_path / "straight", "probmask")
    with monkeypatch.context() as patch:
        stop(patch, step)
        with pytest.raises(InterruptedRunError, match=f"saved at step {step}"):
            run(tmp_path / "stopped", "probmask")
    assert store.read(folder(tmp_path / "stopped") / "run.json")["status"] == "interrupted"
    run(tmp_path / "stopped", "probmask")
    assert attempts(tmp_path / "stopped") == [0, step]
    check_equal(tmp_path / "straight", tmp_path / "stopped")
    assert not (folder(tmp_path / "stopped") / "failures").exists()


def test_a_stop_during_the_last_evaluation_is_heard(tmp_path, monkeypatch):
    """It comes after the last step; the run is saved with all its steps, and only its end is left to do."""
    run(tmp_path / "straight")
    heard = []

    @contextmanager
    def requests(take=interrupts.requests):
        with take() as request:
            heard.append(request)
            yield request

    def validate(training, original=loop.validate):
        heard[-1].number = signal.SIGTERM if training.state.step == 8 else 0
        return original(training)

    with monkeypatch.context() as patch:
        patch.setattr(interrupts, "requests", requests)
        patch.setattr(loop, "validate", validate)
        with pytest.raises(InterruptedRunError, match="saved at step 8"):
            run(tmp_path / "stopped")
    run(tmp_path / "stopped")
    assert attempts(tmp_path / "stopped") == [0, 8]
    check_equal(tmp_path / "straight", tmp_path / "stopped")


@pytest.mark.parametrize(("first", "second", "name"), [(0, 1, "str"), (1, 2, "supermask edge-popup"), (2, 0, "str")])
def test_another_zero_stage_goes_on(tmp_path, monkeypatch, first, second, name):
    """A run goes on at another ZeRO stage and ends where the straight one does, to rounding, with the exact count."""
    options = RUNS[name] | {"overrides": {"epochs": 3, "lr": 0.01}}
    straight = run(tmp_path / "straight", **options)
    with monkeypatch.context() as patch:
        stop(patch, 6)
        with pytest.raises(InterruptedRunError):
            run(tmp_path / "changed", zero=first, **options)
    changed = run(tmp_path / "changed", zero=second, **options)
    assert [a["zero"] for a in changed["lifecycle"]["attempts"]] == [first, second]
    assert changed["sparsity"]["kept"] == straight["sparsity"]["kept"]
    weights = [safetensors.torch.load_file(folder(tmp_path / n) / "model.safetensors") for n in ("straight", "changed")]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=1e-3, atol=1e-4)


def interrupted(arguments, number) -> int:
    """The exit code of a command that gets signal `number` after its second epoch."""
    with subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("epoch") and int(line.split()[1]) >= 2:
                break
        process.send_signal(number)
        process.stderr.read()
        return process.wait(60)


@pytest.mark.slow
def test_another_number_of_processes_goes_on(tmp_path, monkeypatch):
    """From two processes to one and back to two, at three ZeRO stages, a run ends as a straight one does, to rounding.

    SIGTERM goes to the parent of the two processes, which save.
    """
    options = {"model": "test_vit", "overrides": {"epochs": 12, "lr": 0.01}}
    arguments = ["--model", "test_vit", "--epochs", "12", "--lr", "0.01", "--results", str(tmp_path / "changed")]
    assert interrupted([*arguments, "--procs", "2", "--zero", "1"], signal.SIGTERM) == 75
    with monkeypatch.context() as patch:
        stop(patch, 44)
        with pytest.raises(InterruptedRunError):
            run(tmp_path / "changed", **options)
    changed = run(tmp_path / "changed", procs=2, zero=2, **options)
    straight = run(tmp_path / "straight", **options)
    first, second, third = changed["lifecycle"]["attempts"]
    assert [(a["world_size"], a["zero"]) for a in (first, second, third)] == [(2, 1), (1, 0), (2, 2)]
    assert first["step"] < 8 <= second["step"] < third["step"] == 44
    assert changed["hash"] == straight["hash"]
    assert changed["sparsity"]["kept"] == straight["sparsity"]["kept"]
    weights = [safetensors.torch.load_file(folder(tmp_path / n) / "model.safetensors") for n in ("straight", "changed")]
    for name, weight in weights[0].items():
        assert float((weight - weights[1][name]).norm()) <= 1e-2 * float(weight.norm()) + 1e-4, name


@pytest.mark.slow
def test_ctrl_c_with_two_processes_saves(tmp_path):
    """Ctrl-C in the parent of two processes ends with 130, a record that says so, and a checkpoint of a whole step."""
    arguments = ["--model", "test_vit", "--epochs", "400", "--procs", "2", "--checkpoint-every", "0"]
    assert interrupted([*arguments, "--results", str(tmp_path)], signal.SIGINT) == 130
    message = store.read(folder(tmp_path) / "run.json")["error"]["message"]
    assert message.startswith("stopped by Ctrl-C, saved")
    newest = runfolder.checkpoints(folder(tmp_path))[0]
    assert message.split("saved at step ")[1].split(":")[0] == str(int(newest.stem.removeprefix("step-")))


def test_a_second_process_on_one_run_is_refused(tmp_path):
    """While a run is worked on, the same command is refused with the holder's name; after its end, it goes on."""
    arguments = ["--epochs", "4", "--results", str(tmp_path), "--checkpoint-every", "1"]
    with runfolder.locked(prepare(tiny(tmp_path, overrides={"epochs": 4}))[0].folder):
        done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is working on" in done.stderr
    assert f"process {os.getpid()} on" in done.stderr
    assert list(tmp_path.rglob("*.json")) == []
    assert run(tmp_path, overrides={"epochs": 4})["status"] == "done"
    assert not list(tmp_path.rglob(".lock"))


def test_a_full_disk_is_a_failed_row_and_costs_nothing(tmp_path):
    """A checkpoint that cannot be written ends the run with exit 1; what was saved before is gone on from."""
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)\n"
    limited += "from pruneboard.cli import main; sys.argv[1:2] = []; main()"
    arguments = [*COMMAND[3:], "--epochs", "2", "--results", str(tmp_path)]
    with pytest.MonkeyPatch.context() as patch:
        stop(patch, 3)
        with pytest.raises(InterruptedRunError):
            run(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", limited, "1000000", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    failed = store.read(folder(tmp_path) / "run.json")
    assert failed["status"] == "failed"
    assert "cannot write" in failed["error"]["message"]
    run(tmp_path)
    assert attempts(tmp_path) == [0, 3]


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, monkeypatch):
    """Where the newest file is damaged the run goes on from the other; where both are, --force is asked for."""
    for name in ("one", "both"):
        with monkeypatch.context() as patch:
            stop(patch, 6)
            with pytest.raises(InterruptedRunError):
                run(tmp_path / name, "probmask")
    newest, before = runfolder.checkpoints(folder(tmp_path / "one"))
    newest.write_bytes(newest.read_bytes()[:1000])
    run(tmp_path / "one", "probmask")
    assert (before.stem, attempts(tmp_path / "one")) == ("step-000000004", [0, 4])
    for path in (tmp_path / "both").rglob("step-*"):
        path.write_bytes(b"")
    with pytest.raises(UsageError, match=r"no checkpoint in .* can be read: start again with --force"):
        run(tmp_path / "both", "probmask")
    assert len(run(tmp_path / "both", "probmask", force=True)["lifecycle"]["attempts"]) == 1
    check_equal(tmp_path / "one", tmp_path / "both")


def test_other_code_does_not_go_on(tmp_path, monkeypatch):
    """A run begun with other versions or other code of the method is refused, by name, and left as it is."""
    with monkeypatch.context() as patch:
        stop(patch, 3)
        with pytest.raises(InterruptedRunError):
            run(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code = start.provenance.code
    monkeypatch.setattr(start.provenance, "code", lambda target: code(target) | {"code of the method": "0" * 12})
    with pytest.raises(UsageError, match=r"started with code of the method .*, and it is now 000000000000: .*--force"):
        run(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_checkpoints_come_every_so_many_steps_and_two_are_kept(tmp_path, monkeypatch):
    """With `checkpoint_every=3` in epochs of four: 3, 4, 6, 8, ..., each the newest of two, the last at the end."""
    seen = []
    add = runfolder.add_checkpoint

    def watched(place, step, write):
        add(place, step, write)
        seen.append([int(path.stem[-9:]) for path in runfolder.checkpoints(place)])

    monkeypatch.setattr(runfolder, "add_checkpoint", watched)
    run(tmp_path, overrides={"epochs": 3}, checkpoint_every=3)
    assert seen == [[3], [4, 3], [6, 4], [8, 6], [9, 8], [12, 9]]


def test_a_checkpoint_needs_no_pickle_and_holds_whole_tensors(tmp_path, monkeypatch):
    """Any reader of safetensors finds weights and optimizer tensors in their own shapes, and the step in the header."""
    stop(monkeypatch, 3)
    with pytest.raises(InterruptedRunError):
        run(tmp_path, "probmask", zero=2)
    (path,) = runfolder.checkpoints(folder(tmp_path))
    with safetensors.safe_open(path, "pt") as file:
        assert json.loads(file.metadata()[checkpoint.METADATA_KEY])["state"]["step"] == 3
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    weight = "fc.parametrizations.weight.original"
    assert shapes[f"network/{weight}"] == shapes[f"optimizer/momentum_buffer/{weight}"] == (10, 96)


def test_a_failed_run_keeps_its_checkpoint_and_its_record(tmp_path, monkeypatch):
    """A plugin's error after a checkpoint is a failed row; running again shelves the row and goes on."""
    whole = loop.train_step

    def fails(run, step, batches):
        if step == 6:
            raise RunError("method broke")
        return whole(run, step, batches)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", fails)
        with pytest.raises(RunError, match="method broke"):
            run(tmp_path)
    run(tmp_path)
    assert attempts(tmp_path) == [0, 4]
    assert store.read(folder(tmp_path) / "failures" / "01.json")["status"] == "failed"


@pytest.mark.slow
def test_twenty_random_kills_lose_nothing(tmp_path):
    """A command killed 20 times at random moments, saving at every step, ends like one that was never killed.

    Every other kill waits for a half-written checkpoint, so that some fall within a save.
    """
    generator = random.Random(0)
    arguments = ["--epochs", "40", "--checkpoint-every", "1", "--quiet", "--results"]
    subprocess.run([*COMMAND, *arguments, str(tmp_path / "straight")], check=True, capture_output=True)
    killed = tmp_path / "killed"
    within_a_save = 0
    for number in range(20):
        with subprocess.Popen([*COMMAND, *arguments, str(killed)], stdout=subprocess.DEVNULL) as process:
            wait_for_change(process, lambda: newest(killed))
            time.sleep(generator.uniform(0, 0.3))
            if number % 2:
                wait_for_change(process, lambda: half_written(killed))
            process.kill()
            assert process.wait() == -signal.SIGKILL
        within_a_save += bool(half_written(killed))  # the next attempt removes it
    subprocess.run([*COMMAND, *arguments, str(killed)], check=True, capture_output=True)
    assert within_a_save > 0
    assert len(attempts(killed)) == 21
    check_equal(tmp_path / "straight", killed)


def wait_for_change(process, read):
    """Return once `read` sees something else than at first, or the process has ended."""
    first = read()
    while read() == first and process.poll() is None:
        time.sleep(0.001)


def newest(results) -> str | None:
    """The name of the newest checkpoint below `results`."""
    return max((path.name for path in results.rglob("step-*.safetensors")), default=None)


def half_written(results) -> list:
    """The checkpoints below `results` that are being written."""
    return list(results.rglob("checkpoints/.*.part"))
