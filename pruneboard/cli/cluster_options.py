"""Options of `pruneboard sweep` for executing a board on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from pruneboard.errors import UsageError

if TYPE_CHECKING:
    from pruneboard.sweeps.scheduler import Executor

LOCAL_DEFAULTS: dict[str, Any] = {"jobs": "auto", "procs": 1, "device": "auto"}
"""Options that apply to this machine only, with their default values."""

CLUSTER_DEFAULTS: dict[str, Any] = {"cpus_per_run": 1.0, "gpus_per_run": 0.0}
"""Options that apply to a cluster only, with their default values."""


def cluster_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command."""
    for option in (
        click.option(
            "--gpus-per-run",
            type=float,
            default=CLUSTER_DEFAULTS["gpus_per_run"],
            show_default=True,
            metavar="FLOAT",
            help="With ray: GPUs reserved per run, at most 1. 0.25: four runs share a GPU. 0: runs train on the CPU.",
        ),
        click.option(
            "--cpus-per-run",
            type=float,
            default=CLUSTER_DEFAULTS["cpus_per_run"],
            show_default=True,
            metavar="FLOAT",
            help="With ray: CPU cores reserved per run, which uses as many threads, at least one.",
        ),
        click.option(
            "--executor",
            type=click.Choice(["local", "ray"]),
            default="local",
            show_default=True,
            help="local: this machine. ray: the Ray cluster at RAY_ADDRESS, or else the one of this machine.",
        ),
    ):
        function = option(function)
    return function


def uses_cluster(options: Mapping[str, Any]) -> bool:
    """Return whether `--executor ray` was given."""
    return bool(options["executor"] == "ray")


def check_options(options: Mapping[str, Any], *, lists_only: bool) -> None:
    """Check the options before anything is executed.

    Args:
        options: values of all options of the command.
        lists_only: whether the command only lists or estimates runs.

    Raises:
        UsageError: options contradict each other, or a cluster cannot be used.
    """
    if not uses_cluster(options):
        if flag := _first_given(options, CLUSTER_DEFAULTS):
            raise UsageError(f"{flag} requires --executor ray: add it, or use --jobs instead")
        return
    if lists_only:
        raise UsageError("--dry-run and --plan-only use this machine only: remove --executor ray")
    if flag := _first_given(options, LOCAL_DEFAULTS):
        raise UsageError(
            f"{flag} applies to a single machine: with --executor ray use --cpus-per-run and --gpus-per-run; "
            "the number of parallel runs follows from the resources of the cluster"
        )
    from pruneboard.sweeps.executors import ray_client

    ray_client.check_reservation(options["cpus_per_run"], options["gpus_per_run"])


def join_cluster(options: Mapping[str, Any]) -> tuple[Executor, int]:
    """Connect to the cluster; return its executor and the number of parallel runs, at least 1."""
    from pruneboard.sweeps.executors.ray_cluster import RayCluster

    cluster = RayCluster(cpus=options["cpus_per_run"], gpus=options["gpus_per_run"])
    capacity = cluster.capacity
    if not capacity:
        click.echo(
            f"no node of the cluster has {options['cpus_per_run']:g} CPU cores and {options['gpus_per_run']:g} GPUs: "
            "waiting for a node that does",
            err=True,
        )
    return cluster, max(1, capacity)


def _first_given(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """Return the first flag whose value is not its default; empty if there is none."""
    return next(("--" + name.replace("_", "-") for name, value in defaults.items() if options[name] != value), "")
