"""Cost of each board on this machine, estimated and, if its records are in `results/`, measured: a table for the docs.

    python benchmarks/boards/costs.py            # all boards: an hour, because large networks are slow on a CPU
    python benchmarks/boards/costs.py digits-smoke cifar10-small --write

The estimate is that of `pruneboard sweep --dry-run`. The measured time is the sum of the seconds in the board's
records, divided by the number of parallel runs. Each row counts with the time of its median seed, because other work on
the machine slows some runs.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from pruneboard.records import store
from pruneboard.sweeps import board_file

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "boards.md"
START, END = "<!-- costs:start -->\n", "<!-- costs:end -->\n"
HEAD = """| board | network | images | tracks | rows x seeds | estimated | took | disk |
|---|---|---|---|---:|---:|---:|---:|
"""


def estimated(path: Path, jobs: int) -> dict:
    """Return the JSON estimate of `sweep --dry-run` for a board without finished runs."""
    with tempfile.TemporaryDirectory() as empty:
        words = [sys.executable, "-m", "pruneboard", "sweep", str(path), "--dry-run", "--json", "--results", empty]
        done = subprocess.run([*words, "--jobs", str(jobs)], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{path.stem} cannot be estimated: {done.stdout}")
    return json.loads(done.stdout)


def took(name: str, jobs: int) -> float | None:
    """Return the seconds that the committed runs of a board took with `jobs` parallel runs; None without records."""
    folder = ROOT / "results" / name
    if not folder.is_dir():
        return None
    rows: dict[str, list[float]] = defaultdict(list)
    for _, record in store.scan([folder]).records:
        row = (record["track"], record["method"]["name"], record["method"]["ablation"], record["sparsity"]["target"])
        rows[repr(row)].append(record["cost"]["wall_seconds"])
    return sum(len(seconds) * statistics.median(seconds) for seconds in rows.values()) / jobs


def duration(seconds: float | None) -> str:
    """Format a duration in a suitable unit; `-` for None."""
    if seconds is None:
        return "-"
    minutes = seconds / 60
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h" if minutes < 72 * 60 else f"{minutes / 1440:,.0f} days"


def line(path: Path, jobs: int) -> str:
    """Return the table row of a board."""
    board = board_file.load_board(path)
    found = estimated(path, jobs)
    runs, cost = sum(found["counts"].values()), found["estimate"]
    cells = (
        f"[`{board.name}`](../benchmarks/boards/{path.name})",
        f"`{', '.join(board.models)}`",
        f"{board.data.name}, {board.data.train:,}",
        ", ".join(board.tracks),
        f"{runs // len(board.seeds)} x {len(board.seeds)}",
        duration(cost["seconds"]),
        duration(took(board.name, jobs)),
        f"{cost['disk_bytes'] / 2**30:.1f} GiB",
    )
    return "| " + " | ".join(cells) + " |\n"


def main() -> None:
    """Print the table; with `--write`, also update the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("boards", nargs="*", help="names of boards; all by default")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="update the rows of these boards in docs/boards.md")
    given = parser.parse_args()
    paths = sorted((ROOT / "benchmarks" / "boards").glob("*.toml"))
    lines = {path.stem: line(path, given.jobs) for path in paths if not given.boards or path.stem in given.boards}
    print(HEAD + "".join(lines.values()))
    if given.write:
        text = PAGE.read_text(encoding="utf-8")
        old = text.partition(START)[2].partition(END)[0]
        known = {found[1]: found[0] for found in re.finditer(r"\| \[`([\w-]+)`\].*\n", old)} | lines
        new = HEAD + "".join(known[name] for name in sorted(known))
        PAGE.write_text(text.replace(START + old + END, START + new + END), encoding="utf-8")


if __name__ == "__main__":
    main()
