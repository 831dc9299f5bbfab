"""Kill runs at chosen spots: `python killing.py` reads JSON from standard input, a list of [spot, step, results, spec].

Each run has a process of its own, forked after all imports, which ends with SIGKILL at its spot.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

SPOTS = ("after the step", "before the checkpoint", "within the checkpoint", "before its rename", "after its rename")


def kill(deaths: list[tuple[str, int, Path, dict]]) -> None:
    """Run each spec in a process that dies at its spot: (spot, step, results, keywords of `runs.tiny`)."""
    text = json.dumps([[spot, step, str(results), spec] for spot, step, results, spec in deaths])
    done = subprocess.run(
        [sys.executable, __file__], input=text, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, text=True
    )
    assert done.returncode == 0


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_at(spot: str, step: int) -> None:
    """Make this process die at `spot`, as soon as `step` steps are done."""
    from pruneboard.training import checkpoint, checkpoint_file, loop

    save_or_stop, save, rename = loop._save_or_stop, checkpoint.Checkpointer.save, os.replace

    def save_or_stop_then_die(run, *rest):
        save_or_stop(run, *rest)
        if run.state.step == step:
            _die()

    def save_and_die(checkpointer, engine, mask_tracker, state):
        if state.step == step:
            if spot == "before the checkpoint":
                _die()
            if spot == "within the checkpoint":
                checkpoint_file.save_file = lambda tensors, part, metadata: (Path(part).write_bytes(b"half"), _die())
            if spot == "before its rename":
                os.replace = lambda *paths: _die()
            if spot == "after its rename":
                os.replace = lambda *paths: (rename(*paths), _die())
        return save(checkpointer, engine, mask_tracker, state)

    if spot == "after the step":
        loop._save_or_stop = save_or_stop_then_die
    else:
        checkpoint.Checkpointer.save = save_and_die


def _main() -> None:
    from pruneboard.experiment import lifecycle
    from runs import tiny

    for spot, step, results, spec in json.load(sys.stdin):
        child = os.fork()
        if not child:
            _die_at(spot, step)
            lifecycle.run(tiny(results, **spec))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            sys.exit(f"the run was not killed: {spot} {step} {spec}")


if __name__ == "__main__":
    _main()
