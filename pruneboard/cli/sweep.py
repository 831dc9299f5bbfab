"""`pruneboard sweep`: execute the runs of a board file and write the leaderboard."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pruneboard import report
from pruneboard.cli import limits
from pruneboard.cli.cluster_options import check_options, cluster_options, join_cluster, uses_cluster
from pruneboard.cli.progress import is_live, shown
from pruneboard.cli.run import seed_list
from pruneboard.cli.sweep_progress import SweepDisplay
from pruneboard.errors import InterruptedRunError, UsageError
from pruneboard.leaderboard import folders, literature
from pruneboard.processes import interrupts, phases, world
from pruneboard.records import store
from pruneboard.records.fields import STATUSES
from pruneboard.report import files
from pruneboard.sweeps import board_file, manifest

if TYPE_CHECKING:
    from pruneboard.sweeps.plan import PlannedRun, SweepPlan
    from pruneboard.sweeps.scheduler import Executor, SweepProgress

FAILED = 1

RUN_ERRORS = tuple(status for status in STATUSES if status not in ("done", "interrupted"))
"""Statuses of runs that ended without a result and are repeated only with `--retry-failed`."""

NEED_DATA_DIR = ("cifar10", "cifar100", "folder", "imagenet")
"""Data sets that do not come with pruneboard."""


@click.command("sweep")
@click.argument("board", metavar="BOARD.toml", type=click.Path(path_type=Path))
@click.option("--results", type=click.Path(), help="Folder with one folder per run.  [default: results/BOARD]")
@click.option("--data-dir", type=click.Path(), help="Folder of the data set.")
@click.option("--download", is_flag=True, help="Download cifar10 or cifar100 into --data-dir if it is missing.")
@click.option("--check-images", is_flag=True, help="Decode every image file once, before the first run.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option(
    "--jobs",
    "-j",
    default="auto",
    show_default=True,
    metavar="N|auto",
    help="Parallel runs. auto: one per CPU core; on GPUs the number with the highest measured throughput.",
)
@click.option("--procs", type=int, default=1, show_default=True, help="Processes per run.")
@cluster_options
@click.option("--only", multiple=True, metavar="METHOD", help="Only this method; repeatable.")
@click.option("--seeds", metavar="N|A,B,...", help="Only these seeds: a count (2 means 0 and 1) or a list.")
@click.option("--retry-failed", is_flag=True, help="Repeat failed runs; the record of the failure is kept.")
@click.option("--restart", is_flag=True, help="Start stopped runs from the first step, as after a code change.")
@click.option("--fail-fast", is_flag=True, help="Start no further run after the first failure.")
@click.option("--dry-run", is_flag=True, help="Only print the missing runs with estimated time and disk space.")
@click.option("--plan-only", is_flag=True, help="Only print one `pruneboard run` line per missing run, for array jobs.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
@click.option("--quiet", "-q", is_flag=True, help="Print no progress; the leaderboard is still printed.")
def command(board: Path, *, results: str | None, dry_run: bool, plan_only: bool, as_json: bool, **options: Any) -> int:
    """Execute the missing runs of a board and write its leaderboard.

    \b
    pruneboard sweep benchmarks/boards/digits-smoke.toml
    pruneboard sweep benchmarks/boards/cifar10-small.toml --data-dir DIR --dry-run

    Finished runs are not repeated and stopped runs resume: repeat the same command after Ctrl-C, SIGTERM or a crash.
    The dense control runs first, then one seed after another. A failed run is a row of the leaderboard, and the command
    exits with 1.
    """
    description = board_file.load_board(board)
    results = results or str(Path("results") / description.name)
    lists_only = dry_run or plan_only
    _check_counts(options)
    check_options(options, lists_only=lists_only)
    previous = signal.signal(signal.SIGTERM, interrupts.stop_now)
    try:
        with shown(quiet=options["quiet"]):
            phases.report("loading torch")
            plan = _plan(description, results, options, lists_only=lists_only)
        for note in plan.notes():
            click.echo(f"note: {note}", err=True)
        if plan_only:
            return _print_commands(plan, options)
        if dry_run:
            return _print_estimate(plan, options, results, as_json=as_json)
        return _sweep(plan, results, options, as_json=as_json)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _check_counts(options: dict[str, Any]) -> None:
    if options["jobs"] != "auto" and not (options["jobs"].isdecimal() and int(options["jobs"])):
        raise UsageError(f"--jobs must be a number of 1 or more, or auto; found {options['jobs']!r}")
    if options["procs"] < 1:
        raise UsageError(f"--procs must be the number of processes per run, 1 or more; found {options['procs']}")


def _plan(description: board_file.BoardFile, results: str, options: dict[str, Any], *, lists_only: bool) -> SweepPlan:
    """Return the plan; if runs are only listed or estimated, the data set is not required."""
    from pruneboard.sweeps.plan import MachineSettings, board_specs, make_plan, make_plan_without_data

    machine = MachineSettings(
        results=results,
        data_dir=options["data_dir"],
        download=options["download"],
        check_images=options["check_images"],
        device="cpu" if uses_cluster(options) else options["device"],  # with a cluster nothing trains on this machine
        procs=options["procs"],
    )
    seeds = None if options["seeds"] is None else seed_list(options["seeds"], 0)
    specs = board_specs(description, machine, only=options["only"], seeds=seeds)
    if lists_only and machine.data_dir is None and description.data.name in NEED_DATA_DIR:
        click.echo("no --data-dir: all runs are listed, because the finished ones cannot be identified", err=True)
        return make_plan_without_data(description, specs)
    return make_plan(description, specs)


def _print_commands(plan: SweepPlan, options: dict[str, Any]) -> int:
    from pruneboard.sweeps.plan import run_command

    for run in plan.missing(retry_failed=options["retry_failed"]):
        click.echo(run_command(run.spec))
    return 0


def _print_estimate(plan: SweepPlan, options: dict[str, Any], results: str, *, as_json: bool) -> int:
    from pruneboard.sweeps.estimate import estimate_runs

    missing = plan.missing(retry_failed=options["retry_failed"])
    jobs, threads = _parallelism(options)
    with shown(quiet=options["quiet"]):
        cost = estimate_runs(missing, plan.board.data, jobs=jobs, threads=threads)
    counts = plan.counts()
    if as_json:
        runs = [{"label": run.label, "hash": run.hash, "status": run.status} for run in plan.runs]
        values = {"board": plan.board.name, "results": results, "counts": counts, "to_run": len(missing)}
        click.echo(json.dumps({**values, "estimate": cost.as_dict(), "runs": runs}, indent=2, sort_keys=True))
        return FAILED if any(row.problem for row in cost.rows) else 0
    click.echo(f"{plan.board.title}\n")
    click.echo(f"{'runs':12}{len(plan.runs)}")
    for status, count in counts.items():
        click.echo(f"  {status:10}{count}")
    click.echo(f"{'to run':12}{len(missing)}, into {results}")
    more = " or more" * any(row.lower_bound for row in cost.rows)
    each = f"{threads} thread{'s' * (threads != 1)} each"
    click.echo(f"{'time':12}{_duration(cost.seconds)}{more} with {jobs} at once, {each}")
    click.echo(f"{'disk':12}{cost.disk_bytes / 2**20:,.0f} MiB")
    for row in cost.rows:
        problem = report.printable(row.problem, 300)
        each = f"cannot be measured: {problem}" if problem else f"x {row.seconds:8.1f} s{' or more' * row.lower_bound}"
        click.echo(f"  {report.printable(row.label, 100):44}{row.runs:5} {each}")
    return FAILED if any(row.problem for row in cost.rows) else 0


def _sweep(plan: SweepPlan, results: str, options: dict[str, Any], *, as_json: bool) -> int:
    from pruneboard.experiment import lifecycle
    from pruneboard.sweeps.scheduler import interruption_message, run_sweep

    missing = _missing(plan, options)
    store.inside(Path(results) / folders.FOLDER, results)  # not only after hours, when the leaderboard is written
    executor, jobs = join_cluster(options) if uses_cluster(options) else _local_executor(options)
    part = bool(options["only"] or options["seeds"])
    manifest.write(results, plan.board.name, _manifest_entries(plan), jobs, part=part)
    display = SweepDisplay(quiet=options["quiet"], live=is_live())
    display.on_start(plan.board.title, plan.counts(), len(missing))
    try:
        with display:
            progress = run_sweep(
                missing, executor, display, fail_fast=options["fail_fast"], record_lost_run=lifecycle.record_lost_run
            )
    except (KeyboardInterrupt, InterruptedRunError) as error:
        raise type(error)(interruption_message(error, saved=not uses_cluster(options))) from None
    _publish(results, progress, as_json=as_json)
    failed_before = any(run.status in RUN_ERRORS for run in plan.runs) and not options["retry_failed"]
    return FAILED if progress.failed or failed_before else 0


def _missing(plan: SweepPlan, options: dict[str, Any]) -> list[PlannedRun]:
    """Return the runs to execute; with `--restart` from the first step."""
    missing = plan.missing(retry_failed=options["retry_failed"])
    return [replace(run, spec=replace(run.spec, force=True)) for run in missing] if options["restart"] else missing


def _manifest_entries(plan: SweepPlan) -> list[manifest.ManifestEntry]:
    return [
        manifest.ManifestEntry(
            dataset=run.spec.dataset,
            model=run.spec.model,
            track=str(run.spec.track),
            method=run.spec.method,
            sparsity=run.spec.sparsity,
            seed=run.spec.seed,
            hash=run.hash,
        )
        for run in plan.runs
    ]


def _local_executor(options: dict[str, Any]) -> tuple[Executor, int]:
    """Return the executor on this machine, and its number of parallel runs."""
    from pruneboard.sweeps.executors.gpu_sharing import GpuSharing, gpu_shares, on_gpu
    from pruneboard.sweeps.executors.workers import Workers
    from pruneboard.sweeps.single_run import execute_run

    jobs, threads = _parallelism(options)
    gpus = gpu_shares(options["procs"]) if on_gpu(options["device"]) else []
    if gpus and options["jobs"] == "auto":
        sharing = GpuSharing(execute_run, threads, gpus=gpus)
        return sharing, sharing.slots
    return Workers(execute_run, jobs, threads, gpus), jobs


def _parallelism(options: dict[str, Any]) -> tuple[int, int]:
    """Return the number of parallel runs, and the number of threads of each process."""
    import torch

    cores = len(os.sched_getaffinity(0))
    jobs = max(1, cores // options["procs"]) if options["jobs"] == "auto" else int(options["jobs"])
    return jobs, world.thread_count(jobs * options["procs"]) or torch.get_num_threads()  # the value of OMP_NUM_THREADS


def _publish(results: str, progress: SweepProgress, *, as_json: bool) -> None:
    """Write and print the leaderboard of all records in the results folder."""
    output = folders.default_output([Path(results)])
    leaderboard = folders.load([results], published=literature.included(), out=output)
    problem = limits.memory_problem(limits.CHARTS)
    if problem:
        click.echo(f"{problem}: the leaderboard is written without charts", err=True)
    files.write_leaderboard(leaderboard, output, [n for n in files.FORMATS if not problem or n not in limits.DRAWN])
    click.echo(report.json(leaderboard) if as_json else report.terminal(leaderboard), nl=not as_json)
    if not as_json:
        click.echo(f"{progress.finished} runs executed, {progress.failed} failed; the leaderboard is in {output}")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
