"""(e) Duration of commands that train nothing, in a new interpreter."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from rows import Row

from pruneboard.records import schema as records

sys.path.insert(0, str(Path(__file__).parents[1] / "leaderboard"))
from scale import made

COMMANDS = {
    "--help": (["--help"], 0.3),
    "list": (["list"], 0.3),
    "compare DIR --format none": (["compare", "DIR", "--format", "none"], 0.3),
    "compare DIR": (["compare", "DIR"], None),
}
"""Command -> arguments and bound in seconds. The last one also writes the page and figures, with more libraries."""


def small_board(folder: Path) -> Path:
    """Write a board of 21 runs: a dense control and two methods at three sparsities, three seeds each."""
    draw = random.Random(0)
    chosen = [("dense", None), *((method, point) for method in ("magnitude", "probmask") for point in (0.5, 0.9, 0.95))]
    for number, (seed, (method, point)) in enumerate((seed, run) for seed in range(3) for run in chosen):
        place = folder / str(number)
        place.mkdir(parents=True)
        (place / "run.json").write_text(records.dumps(made(0, method, point, seed, draw)))
    return folder


@pytest.mark.parametrize("typed", COMMANDS)
def test_startup(versus, rounds, tmp_path, typed):
    """From the start of the process to its end, compared with an interpreter that does nothing."""
    arguments, bound = COMMANDS[typed]
    folder = str(small_board(tmp_path / "results"))
    command = [sys.executable, "-m", "pruneboard", *(folder if word == "DIR" else word for word in arguments)]

    def run(command):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    row = Row(
        section="e",
        what=f"pruneboard {typed}",
        against="python -c pass",
        kind="seconds",
        bound=bound,
        note="" if "DIR" not in typed else "DIR: 21 records of a ResNet-50",
    )
    versus(row, lambda: run(command), lambda: run([sys.executable, "-c", "pass"]), rounds=rounds(15 if bound else 3))
