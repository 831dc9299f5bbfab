"""`pruneboard sweep`: a whole board, from its file to its leaderboard."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pruneboard import report
from pruneboard.cli import clusters
from pruneboard.cli.run import seed_list
from pruneboard.cli.sweeping import Shown
from pruneboard.errors import InterruptedRunError, UsageError
from pruneboard.leaderboard import folders, literature
from pruneboard.processes import interrupts, world
from pruneboard.records.schema import STATUSES
from pruneboard.report import files
from pruneboard.sweeps import board_file, manifest

if TYPE_CHECKING:
    from pruneboard.sweeps.conduct import Executor, Progress
    from pruneboard.sweeps.plan import Cell, Plan

FAILED = 1

RUN_ERRORS = tuple(status for status in STATUSES if status not in ("done", "interrupted"))
"""Statuses of runs that ended without a result and are not carried out again by themselves."""

NEED_A_FOLDER = ("cifar10", "cifar100", "folder", "imagenet")
"""Data sets that do not come with pruneboard."""


@click.command("sweep")
@click.argument("board", metavar="BOARD.toml", type=click.Path(path_type=Path))
@click.option("--results", type=click.Path(), help="Folder that holds one folder per run.  [default: results/BOARD]")
@click.option("--data-dir", type=click.Path(), help="Where the data set is.")
@click.option("--download", is_flag=True, help="Fetch cifar10 or cifar100 into --data-dir when it is not there.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option(
    "--jobs",
    "-j",
    default="auto",
    show_default=True,
    metavar="N|auto",
    help="Runs at once. auto: one per CPU core; on a GPU as many as raise its throughput, found by measuring.",
)
@click.option("--procs", type=int, default=1, show_default=True, help="Processes per run.")
@clusters.options
@click.option("--only", multiple=True, metavar="METHOD", help="Only the rows of this method; repeatable.")
@click.option("--seeds", metavar="N|A,B,...", help="Only these seeds of the board: 2 means 0 and 1, 3,4 a list.")
@click.option("--retry-failed", is_flag=True, help="Try failed runs again; the record of the failure is kept.")
@click.option("--restart", is_flag=True, help="Start stopped runs from their first step, as after a change of code.")
@click.option("--fail-fast", is_flag=True, help="Start nothing more after the first failure.")
@click.option("--dry-run", is_flag=True, help="Print what there is to do and about what it takes, and stop.")
@click.option("--plan-only", is_flag=True, help="Print one `pruneboard run` line per missing run, for array jobs.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
@click.option("--quiet", "-q", is_flag=True, help="No progress; the leaderboard stays.")
def command(board: Path, *, results: str | None, dry_run: bool, plan_only: bool, as_json: bool, **given: Any) -> int:
    """Run what is missing of a board, and write its leaderboard.

    \b
    pruneboard sweep benchmarks/boards/digits-smoke.toml
    pruneboard sweep benchmarks/boards/cifar10-small.toml --data-dir DIR --dry-run

    Runs that are done are not repeated, and stopped ones go on: the same command continues a board after Ctrl-C,
    SIGTERM or a crash. The dense control comes first, then seed by seed. A failed run is a row of the leaderboard,
    and ends the command with exit code 1.
    """
    description = board_file.load_board(board)
    results = results or str(Path("results") / description.name)
    _check(given)
    clusters.check(given, looking=dry_run or plan_only)
    previous = signal.signal(signal.SIGTERM, interrupts.at_once)
    try:
        plan = _plan(description, results, given, looking=dry_run or plan_only)
        if plan_only:
            return _print_lines(plan, given)
        if dry_run:
            return _print_plan(plan, given, results, as_json=as_json)
        return _sweep(plan, results, given, as_json=as_json)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _check(given: dict[str, Any]) -> None:
    if given["jobs"] != "auto" and not (given["jobs"].isdecimal() and int(given["jobs"])):
        raise UsageError(f"--jobs is a number of 1 or more, or auto; found {given['jobs']!r}")
    if given["procs"] < 1:
        raise UsageError(f"--procs is the number of processes per run, 1 or more; found {given['procs']}")


def _plan(description: board_file.BoardFile, results: str, given: dict[str, Any], *, looking: bool) -> Plan:
    """Return the runs; where one only looks at them, the images need not be there."""
    from pruneboard.sweeps.plan import Place, make_plan, unknown_plan

    place = Place(
        results=results,
        data_dir=given["data_dir"],
        download=given["download"],
        device="cpu" if clusters.wanted(given) else given["device"],  # there nodes train, and nothing does here
        procs=given["procs"],
    )
    seeds = None if given["seeds"] is None else seed_list(given["seeds"], 0)
    if looking and place.data_dir is None and description.data.name in NEED_A_FOLDER:
        click.echo("no --data-dir: which runs are done cannot be told", err=True)
        return unknown_plan(description, place, only=given["only"], seeds=seeds)
    return make_plan(description, place, only=given["only"], seeds=seeds)


def _print_lines(plan: Plan, given: dict[str, Any]) -> int:
    from pruneboard.sweeps.plan import command as line

    for cell in plan.missing(retry_failed=given["retry_failed"]):
        click.echo(line(cell.spec))
    return 0


def _print_plan(plan: Plan, given: dict[str, Any], results: str, *, as_json: bool) -> int:
    from pruneboard.sweeps import estimate

    missing = plan.missing(retry_failed=given["retry_failed"])
    jobs, threads = _jobs(given)
    cost = estimate.of_cells(missing, plan.board.data, jobs=jobs, threads=threads)
    counts = plan.counts()
    if as_json:
        runs = [{"label": c.label, "hash": c.hash, "status": c.status} for c in plan.cells]
        values = {"board": plan.board.name, "results": results, "counts": counts, "to_run": len(missing)}
        click.echo(json.dumps({**values, "estimate": cost.as_dict(), "runs": runs}, indent=2, sort_keys=True))
        return FAILED if any(row.problem for row in cost.rows) else 0
    click.echo(f"{plan.board.title}\n")
    click.echo(f"{'runs':12}{len(plan.cells)}")
    for status, count in counts.items():
        click.echo(f"  {status:10}{count}")
    click.echo(f"{'to run':12}{len(missing)}, into {results}")
    click.echo(f"{'time':12}{_duration(cost.seconds)} with {jobs} at once, {threads} thread{'s' * (threads != 1)} each")
    click.echo(f"{'disk':12}{cost.disk_bytes / 2**20:,.0f} MiB")
    for row in cost.rows:
        problem = report.printable(row.problem, 300)
        each = f"cannot be measured: {problem}" if problem else f"x {row.seconds:8.1f} s"
        click.echo(f"  {report.printable(row.label, 100):44}{row.runs:5} {each}")
    return FAILED if any(row.problem for row in cost.rows) else 0


def _sweep(plan: Plan, results: str, given: dict[str, Any], *, as_json: bool) -> int:
    from pruneboard.experiment import lifecycle
    from pruneboard.sweeps.conduct import conduct, interrupted

    missing = _missing(plan, given)
    executor, at_once = clusters.join(given) if clusters.wanted(given) else _here(given)
    part = bool(given["only"] or given["seeds"])
    manifest.write(results, plan.board.name, _listed(plan), at_once, part=part)
    shown = Shown(quiet=given["quiet"], live=sys.stderr.isatty())
    shown.on_start(plan.board.title, plan.counts(), len(missing))
    try:
        with shown:
            progress = conduct(
                missing, executor, shown, fail_fast=given["fail_fast"], record_lost_run=lifecycle.record_lost_run
            )
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(interrupted(error, saved=not clusters.wanted(given))) from None
    except InterruptedRunError as error:
        raise InterruptedRunError(interrupted(error, saved=not clusters.wanted(given))) from None
    _publish(results, progress, as_json=as_json)
    before = [cell for cell in plan.cells if cell.status in RUN_ERRORS and not given["retry_failed"]]
    return FAILED if progress.failed or before else 0


def _missing(plan: Plan, given: dict[str, Any]) -> list[Cell]:
    """Return what to carry out: anew from the first step, if that was asked for."""
    missing = plan.missing(retry_failed=given["retry_failed"])
    return [replace(cell, spec=replace(cell.spec, force=True)) for cell in missing] if given["restart"] else missing


def _listed(plan: Plan) -> list[manifest.ManifestEntry]:
    return [
        manifest.ManifestEntry(
            dataset=cell.spec.dataset,
            model=cell.spec.model,
            track=str(cell.spec.track),
            method=cell.spec.method,
            sparsity=cell.spec.sparsity,
            seed=cell.spec.seed,
            hash=cell.hash,
        )
        for cell in plan.cells
    ]


def _here(given: dict[str, Any]) -> tuple[Executor, int]:
    """Return what carries runs out on this machine, and how many at once."""
    from pruneboard.sweeps.carry_out import carry_out
    from pruneboard.sweeps.executors.gpu_sharing import Sharing, on_gpu
    from pruneboard.sweeps.executors.workers import Workers

    jobs, threads = _jobs(given)
    if given["jobs"] == "auto" and on_gpu(given["device"]):
        sharing = Sharing(carry_out, threads)
        return sharing, sharing.slots
    return Workers(carry_out, jobs, threads), jobs


def _jobs(given: dict[str, Any]) -> tuple[int, int]:
    """Return runs at once and threads of each process."""
    import torch

    cores = len(os.sched_getaffinity(0))
    jobs = max(1, cores // given["procs"]) if given["jobs"] == "auto" else int(given["jobs"])
    return jobs, world.threads(jobs * given["procs"]) or torch.get_num_threads()  # what OMP_NUM_THREADS made of it


def _publish(results: str, progress: Progress, *, as_json: bool) -> None:
    """Write the leaderboard of all that is in the results folder, and print it."""
    place = folders.default_output([Path(results)])
    whole = folders.load([results], published=literature.included(), out=place)
    files.write_leaderboard(whole, place)
    click.echo(report.json(whole) if as_json else report.terminal(whole), nl=not as_json)
    if not as_json:
        click.echo(f"{progress.done} runs carried out, {progress.failed} failed; the leaderboard is in {place}")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
