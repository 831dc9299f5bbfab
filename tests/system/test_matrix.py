"""Every method on one and two processes, at every ZeRO stage and precision; writes the table in docs/processes.md."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from pruneboard.errors import UsageError
from pruneboard.experiment import lifecycle, listeners
from pruneboard.experiment.prepare import prepare
from pruneboard.processes.launch import LocalProcesses
from pruneboard.records import runfolder
from runs import tiny

METHODS = {
    "dense": {"method": "dense", "sparsity": None},
    **{name: {"method": name} for name in ("gmp", "magnitude", "probmask", "random", "rigl", "snip", "str", "synflow")},
    "edge-popup, supermask": {"method": "edge-popup", "track": "supermask", "sparsity": 0.5},
    "probmask, supermask": {"method": "probmask", "track": "supermask", "sparsity": 0.5},
    "random, supermask": {"method": "random", "track": "supermask", "sparsity": 0.5},
}
SETTINGS = [(procs, zero, precision) for precision in ("fp32", "bf16") for procs in (1, 2) for zero in (0, 1, 2)]
STEPS = {"limit_train": 44, "overrides": {"epochs": 12, "norm_batch": 16}}
"""34 images are left for training, so each of the 12 epochs is one step."""
PAGE = Path(__file__).parents[2] / "docs" / "processes.md"
BEGIN, END = "<!-- made by tests/system/test_matrix.py -->\n", "<!-- end -->\n"
CLOSE = {"fp32": 1e-5, "bf16": 2e-2}
"""Allowed relative difference between losses of the first step, which differ by rounding only."""


def run_all(jobs):
    """Carry out one job after another on each process of a group; the records of rank 0 are returned."""
    return [lifecycle.execute_safely(job, listeners.NullListener()) for job in jobs]


def records_and_losses(place, procs, zero, precision, device="cpu"):
    """Run every method with one setting: method -> (record, loss of the first step)."""
    options = {"zero": zero, "precision": precision, "device": device}
    jobs = [prepare(tiny(place / name, **spec, **STEPS, **options))[0] for name, spec in METHODS.items()]
    for job in jobs:
        runfolder.begin(job.folder)
    records = LocalProcesses(run_all, (jobs,), procs).result()
    return {name: (record, first_loss(job)) for name, record, job in zip(METHODS, records, jobs, strict=True)}


def first_loss(job):
    """Return the loss of the first step, over all processes; None if no step is taken."""
    path = job.folder / runfolder.METRICS
    return json.loads(path.read_text().splitlines()[0])["loss"] if path.exists() else None


def verdict(found, reference, precision, world):
    """Return `pass`, or what is wrong in one cell of the table."""
    (record, loss), (plain, plain_loss) = found, reference
    wrong = {
        "initial weights": record["model"]["initial_sha256"] != plain["model"]["initial_sha256"],
        "order of the images": record["data"]["order_sha256"] != plain["data"]["order_sha256"],
        "count": record["sparsity"]["kept"] != plain["sparsity"]["kept"],
        "processes": record["engine"]["world_size"] != world,
        "loss": loss is not None and abs(loss - plain_loss) > CLOSE[precision] * plain_loss,
    }
    return ", ".join(name for name, is_wrong in wrong.items() if is_wrong) or "pass"


def refusal(place, spec):
    """Return the message that refuses a method at ZeRO stage 3."""
    with pytest.raises(UsageError) as caught:
        tiny(place, **spec, zero=3)
    return str(caught.value)


def as_table(cells, refused):
    """Return the table of docs/processes.md: a row per setting, a column per method."""
    lines = [f"| device | processes | ZeRO | precision | {' | '.join(METHODS)} |", f"|{'---|' * (4 + len(METHODS))}"]
    for procs, zero, precision in SETTINGS:
        verdicts = (cells[name, (procs, zero, precision)] for name in METHODS)
        lines.append(f"| CPU, gloo | {procs} | {zero} | {precision} | {' | '.join(verdicts)} |")
    lines.append(f"| any | any | 3 | any | {' | '.join('refused' for _ in METHODS)} |")
    lines.append(f"| CUDA, nccl | 1, 2 | 0, 1, 2 | fp32, bf16 | {' | '.join('not verified' for _ in METHODS)} |")
    return "\n".join(lines) + f"\n\nRefused: {refused}.\n"


@pytest.mark.slow
def test_the_table_in_docs_is_what_runs_give(tmp_path):
    """Each cell is a run of 12 steps on the CPU: same start, same data, exact count, equal masks on all processes."""
    cells = {}
    reference = records_and_losses(tmp_path / "reference", 1, 0, "fp32")
    for setting in SETTINGS:
        procs, _, precision = setting
        found = records_and_losses(tmp_path / "-".join(map(str, setting)), *setting)
        cells |= {(name, setting): verdict(found[name], reference[name], precision, procs) for name in METHODS}
    (refused,) = {refusal(tmp_path, spec) for spec in METHODS.values()}
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    made = before + BEGIN + as_table(cells, refused) + END + rest.partition(END)[2]
    if os.environ.get("PRUNEBOARD_WRITE_DOCS"):
        PAGE.write_text(made)
    else:
        assert page == made, f"write it with PRUNEBOARD_WRITE_DOCS=1:\n{as_table(cells, refused)}"
    assert set(cells.values()) == {"pass"}


@pytest.mark.gpu
@pytest.mark.parametrize(("zero", "precision"), [(z, p) for z in (0, 1, 2) for p in ("fp32", "bf16")])
@pytest.mark.parametrize("procs", [1, 2])
def test_every_method_on_cuda(tmp_path, procs, zero, precision):
    """On GPUs, one per process, each method has the start, data and count of the run on the CPU."""
    if torch.cuda.device_count() < procs:
        pytest.skip(f"needs {procs} CUDA devices")
    reference = records_and_losses(tmp_path / "reference", 1, 0, "fp32")
    found = records_and_losses(tmp_path / "cuda", procs, zero, precision, device="cuda")
    for name in METHODS:
        assert verdict(found[name], reference[name], "bf16", procs) == "pass", name
