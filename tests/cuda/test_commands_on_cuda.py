"""Commands on a machine with simulated GPUs."""

from __future__ import annotations

import json
from pathlib import Path

from board_file_cases import FEW, write_board
from pruneboard.cli import invoke
from pruneboard.records import store


def test_doctor_trains_on_the_gpu_and_lists_all(rehearsed, capfd, tmp_path):
    """`doctor` names every GPU with its memory, and its two training steps use one."""
    assert invoke(["doctor", "--json", "--results", str(tmp_path)]) == 0
    found = {f["what"]: f for f in json.loads(capfd.readouterr().out)["findings"]}
    assert [found[f"cuda:{i}"]["detail"] for i in (0, 1)] == [f"Simulated GPU {i}, 80 GiB" for i in (0, 1)]
    assert found["deepspeed engine"]["status"] == "ok"
    assert rehearsed.counts.operations["other", "_fused_sgd_"] == 4  # two groups of parameters


def test_runs_of_a_sweep_are_divided_among_the_gpus(rehearsed, capfd, tmp_path):
    """Two runs at once use a GPU each, and the process that started them uses none."""
    board = write_board(tmp_path, FEW, "few")
    results = tmp_path / "results"
    flags = ["--device", "cuda", "--only", "magnitude", "--quiet"]
    assert invoke(["sweep", str(board), "--results", str(results), *flags]) == 0
    records = [store.read(path) for path in Path(results).rglob("run.json")]
    assert len(records) >= 2
    assert {record["hardware"]["gpu"] for record in records} == {"Simulated GPU 0", "Simulated GPU 1"}
    assert not rehearsed.gpus.initialized
