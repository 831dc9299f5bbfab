"""Flags of `pruneboard sweep` for carrying a board out on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from pruneboard.errors import UsageError

if TYPE_CHECKING:
    from pruneboard.sweeps.conduct import Executor

HERE: dict[str, Any] = {"jobs": "auto", "procs": 1, "device": "auto"}
"""Flags about this machine, with the values that say nothing."""

THERE: dict[str, Any] = {"cpus_per_run": 1.0, "gpus_per_run": 0.0}
"""The same of flags about a cluster."""


def options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags."""
    for option in (
        click.option(
            "--gpus-per-run",
            type=float,
            default=THERE["gpus_per_run"],
            show_default=True,
            metavar="FLOAT",
            help="With ray: GPUs reserved for each run, at most 1; 0.25 lets four share one. 0: runs train on the CPU.",
        ),
        click.option(
            "--cpus-per-run",
            type=float,
            default=THERE["cpus_per_run"],
            show_default=True,
            metavar="FLOAT",
            help="With ray: CPU cores reserved for each run, which has as many threads, at least one.",
        ),
        click.option(
            "--executor",
            type=click.Choice(["local", "ray"]),
            default="local",
            show_default=True,
            help="local: this machine. ray: an existing Ray cluster, that of RAY_ADDRESS or of this machine.",
        ),
    ):
        function = option(function)
    return function


def wanted(given: Mapping[str, Any]) -> bool:
    """Return whether a cluster was asked for."""
    return bool(given["executor"] == "ray")


def check(given: Mapping[str, Any], *, looking: bool) -> None:
    """Refuse flags that do not go together, and a cluster that cannot be used, before anything is done.

    Args:
        given: the flags.
        looking: whether runs are only looked at.

    Raises:
        UsageError: what is wrong.
    """
    if not wanted(given):
        if extra := _said(given, THERE):
            raise UsageError(f"{extra} belongs to --executor ray: add that, or use --jobs")
        return
    if looking:
        raise UsageError("--dry-run and --plan-only use this machine alone: leave --executor ray out")
    if extra := _said(given, HERE):
        raise UsageError(
            f"{extra} is about one machine: with --executor ray say --cpus-per-run and --gpus-per-run, "
            "and the cluster decides how many runs there are at once"
        )
    from pruneboard.sweeps.executors import ray_client

    ray_client.check(given["cpus_per_run"], given["gpus_per_run"])


def join(given: Mapping[str, Any]) -> tuple[Executor, int]:
    """Join the cluster; return it as an executor, and how many runs it takes at once."""
    from pruneboard.sweeps.executors.ray_cluster import Cluster

    cluster = Cluster(cpus=given["cpus_per_run"], gpus=given["gpus_per_run"])
    room = cluster.room
    if not room:
        click.echo(
            f"no node of the cluster has {given['cpus_per_run']:g} CPU cores and {given['gpus_per_run']:g} GPUs for a "
            "run: waiting for one that has",
            err=True,
        )
    return cluster, max(1, room)


def _said(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """Return the first flag that says something."""
    return next(("--" + name.replace("_", "-") for name, value in defaults.items() if given[name] != value), "")
