"""What the worker processes of tests carry out: started processes import it by its name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pruneboard.processes import interrupts


def work(task: dict[str, Any], on_step: Callable[[int, int], None]) -> dict[str, Any]:
    """Do what the task says: `raise`, `die`, `train` until a signal comes, `end` with it, `hang`, or say who it was."""
    do = task.get("do")
    if do == "raise":
        raise task["error"]("why")
    if do == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if do == "train":
        _train(Path(task["saved"]), on_step)
    if do == "end":
        with interrupts.listen_for_stop() as request:
            on_step(1, 1)
            while not request.number:
                time.sleep(0.05)
    if do == "hang":
        on_step(os.getpid(), 0)
        while True:
            time.sleep(0.1)
    import torch

    return {"pid": os.getpid(), "threads": torch.get_num_threads(), "for its own": os.environ["OMP_NUM_THREADS"]}


def _train(saved: Path, on_step: Callable[[int, int], None]) -> None:
    """Take steps until asked to stop, then save as a run does: after the step that is under way."""
    with interrupts.listen_for_stop() as request:
        for step in range(10**6):
            on_step(step, 10**6)
            time.sleep(0.05)
            if request.number:
                saved.write_text(str(step))
                raise interrupts.stop_error(request.number, "; the run is saved")
