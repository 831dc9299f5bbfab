"""Commands on a machine with simulated GPUs."""

from __future__ import annotations

import json

from pruneboard.cli import invoke


def test_doctor_trains_on_the_gpu_and_lists_all(rehearsed, capfd, tmp_path):
    """`doctor` names every GPU with its memory, and its two training steps use one."""
    assert invoke(["doctor", "--json", "--results", str(tmp_path)]) == 0
    found = {f["what"]: f for f in json.loads(capfd.readouterr().out)["findings"]}
    assert [found[f"cuda:{i}"]["detail"] for i in (0, 1)] == [f"Simulated GPU {i}, 80 GiB" for i in (0, 1)]
    assert found["deepspeed engine"]["status"] == "ok"
    assert rehearsed.counts.operations["other", "_fused_sgd_"] == 4  # two groups of parameters
