"""A run that was killed or stopped is resumed, and ends as if nothing had happened, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch

from killing import SPOTS, kill
from pruneboard.errors import InterruptedRunError
from pruneboard.experiment.prepare import prepare
from pruneboard.records import runfolder, store
from resume_cases import FORTY, RUNS, TWENTY, assert_same_run, first_steps, signal_at
from runs import folder, run, tiny

COMMAND = [sys.executable, "-m", "pruneboard", "run", "--method", "magnitude", "--sparsity", "0.9", "--device", "cpu"]
COMMAND += ["--model", "test_resnet", "--limit-train", "142", "--batch-size", "32", "--warmup-epochs", "0"]

KILLED = "test_a_killed_run_ends_as_if_nothing_had_happened"

USUAL = ("supermask edge-popup",)
"""The methods killed by default. That every method can be resumed is also checked by the contract (tests/testing)."""


@pytest.fixture(scope="module")
def killed(tmp_path_factory, request):
    """Runs of the methods that are tested, each killed with SIGKILL after 25 of 40 steps, all in one process."""
    place = tmp_path_factory.mktemp("killed")
    asked = {item.callspec.params["name"] for item in request.session.items if item.originalname == KILLED}
    kill([("after the step", 25, place / name, RUNS[name] | FORTY) for name in sorted(asked)])
    return place


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in USUAL else pytest.mark.slow) for n in RUNS])
def test_a_killed_run_ends_as_if_nothing_had_happened(killed, tmp_path, name):
    """40 steps in one run, and 25 steps, kill -9 and 15 more, give the same record, metrics, masks and weights."""
    run(tmp_path, **RUNS[name], **FORTY)
    run(killed / name, **RUNS[name], **FORTY)
    assert first_steps(killed / name) == [0, 25]
    assert_same_run(tmp_path, killed / name)
    assert not (folder(tmp_path) / "checkpoints").exists()


@pytest.mark.slow
def test_a_kill_at_any_moment_of_a_save_loses_nothing(tmp_path):
    """A run that is killed before, during or after the writing of a checkpoint resumes from it or from the one before.

    Step 16 ends an epoch. Its line of `metrics.jsonl` is already written, and must not be there twice.
    """
    run(tmp_path / "straight", **TWENTY)
    kill([(spot, 16, tmp_path / spot, TWENTY) for spot in SPOTS])
    for spot in SPOTS:
        run(tmp_path / spot, **TWENTY)
        assert first_steps(tmp_path / spot) == [0, 16 if spot == "after its rename" else 15], spot
        assert_same_run(tmp_path / "straight", tmp_path / spot)


def interrupted(arguments, number) -> int:
    """Return the exit code of a command that receives signal `number` after its second epoch."""
    with subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("epoch") and int(line.split()[1]) >= 2:
                break
        process.send_signal(number)
        process.stderr.read()
        return process.wait(60)


@pytest.mark.slow
def test_a_run_resumes_on_another_number_of_processes(tmp_path, monkeypatch):
    """From two processes to one and back to two, at three ZeRO stages, a run ends as an uninterrupted one does.

    The weights agree up to rounding. SIGTERM goes to the parent of the two processes, which save a checkpoint.
    """
    options = {"model": "test_vit", "overrides": {"epochs": 12, "lr": 0.01}}
    arguments = ["--model", "test_vit", "--epochs", "12", "--lr", "0.01", "--results", str(tmp_path / "changed")]
    assert interrupted([*arguments, "--procs", "2", "--zero", "1"], signal.SIGTERM) == 75
    with monkeypatch.context() as patch:
        signal_at(patch, 44)
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
def test_ctrl_c_with_two_processes_saves_a_checkpoint(tmp_path):
    """Ctrl-C in the parent of two processes exits with 130, is recorded, and saves after a complete step."""
    arguments = ["--model", "test_vit", "--epochs", "400", "--procs", "2", "--checkpoint-every", "0"]
    assert interrupted([*arguments, "--results", str(tmp_path)], signal.SIGINT) == 130
    message = store.read(folder(tmp_path) / "run.json")["error"]["message"]
    assert message.startswith("stopped by Ctrl-C, saved")
    newest = runfolder.checkpoints(folder(tmp_path))[0]
    assert message.split("saved at step ")[1].split(":")[0] == str(int(newest.stem.removeprefix("step-")))


def test_a_second_process_on_one_run_is_refused(tmp_path):
    """While a run is locked, the same command is refused and names the process with the lock; later the run is done."""
    arguments = ["--epochs", "4", "--results", str(tmp_path), "--checkpoint-every", "1"]
    with runfolder.locked(prepare(tiny(tmp_path, overrides={"epochs": 4}))[0].folder):
        done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is working on" in done.stderr
    assert f"process {os.getpid()} on" in done.stderr
    assert list(tmp_path.rglob("*.json")) == []
    assert run(tmp_path, overrides={"epochs": 4})["status"] == "done"
    assert not list(tmp_path.rglob(".lock"))


def test_a_full_disk_fails_the_run_and_keeps_its_checkpoint(tmp_path):
    """If a checkpoint cannot be written, the run fails with exit code 1, and later resumes from the one before."""
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)\n"
    limited += "from pruneboard.cli import main; sys.argv[1:2] = []; main()"
    arguments = [*COMMAND[3:], "--epochs", "2", "--results", str(tmp_path)]
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, 3)
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
    assert first_steps(tmp_path) == [0, 3]


KILLS, STEPS = 10, 160


@pytest.mark.slow
@pytest.mark.parametrize("name", ["probmask", "gmp", "rigl", "supermask edge-popup"])
def test_ten_random_kills_lose_nothing(tmp_path, name):
    """A command that is killed 10 times at random moments, and saves after every step, ends like one that never was.

    The moments are spread over the whole run. Every other kill waits for a partly written checkpoint, so that some
    happen during a save.
    """
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed} for {name}")
    generator = random.Random(seed)
    method = {"track": "prune", "sparsity": 0.9, **RUNS[name]}
    command = [*COMMAND, *(text for key in ("method", "track", "sparsity") for text in (f"--{key}", str(method[key])))]
    command += ["--epochs", str(STEPS // 4), "--checkpoint-every", "1", "--quiet", "--results"]
    subprocess.run([*command, str(tmp_path / "straight")], check=True, capture_output=True)
    killed = tmp_path / "killed"
    within_a_save = 0
    for number in range(KILLS):
        with subprocess.Popen([*command, str(killed)], stdout=subprocess.DEVNULL) as process:
            resumed_from = newest_step(killed)
            wanted = max(resumed_from + 1, number * STEPS // (KILLS + 1))
            wait_until(process, lambda: newest_step(killed) >= wanted)  # noqa: B023
            time.sleep(generator.uniform(0, 0.3))
            if number % 2:
                before = partly_written(killed)
                wait_until(process, lambda: partly_written(killed) != before)  # noqa: B023
            process.kill()
            assert process.wait() == -signal.SIGKILL
        print(f"killed at step {newest_step(killed)}")
        within_a_save += bool(partly_written(killed))  # the next attempt removes it
    subprocess.run([*command, str(killed)], check=True, capture_output=True)
    assert within_a_save > 0
    assert len(first_steps(killed)) == KILLS + 1
    assert_same_run(tmp_path / "straight", killed)


def wait_until(process, reached):
    """Return when `reached` returns True, or when the process has ended."""
    while not reached() and process.poll() is None:
        time.sleep(0.001)


def newest_step(results) -> int:
    """Return the step of the newest checkpoint below `results`; 0 if there is none."""
    names = [Path(name) for name in files_in_checkpoints(results) if name.startswith("step-")]
    return max((int(name.stem.removeprefix("step-")) for name in names), default=0)


def partly_written(results) -> list[str]:
    """Return the names of the checkpoints below `results` that are being written."""
    return [name for name in files_in_checkpoints(results) if name.endswith(".part")]


def files_in_checkpoints(results) -> list[str]:
    """Return the names in the checkpoints folder; `rglob` would fail if a folder disappeared meanwhile."""
    return [name for place, _, names in os.walk(results) if Path(place).name == "checkpoints" for name in names]
