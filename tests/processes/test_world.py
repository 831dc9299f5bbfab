"""Rank and world size: how each launcher's variables are read, and which incomplete or invalid ones are refused."""

from __future__ import annotations

import itertools
import os
import re
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneboard.errors import UsageError
from pruneboard.processes.world import (
    FIRST_PORT,
    PORTS,
    World,
    first_host,
    free_port,
    local_environments,
    thread_count,
    timeout,
)

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "alpha", "MASTER_PORT": "29500"}
STEP = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "2",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "node[003-005,9],gpu1",
}


@pytest.fixture
def environment():
    """A function that sets variables about processes and unsets all others; afterwards the environment is restored."""
    before = dict(os.environ)

    def only(**variables):
        for name in [*TORCHRUN, "OMP_NUM_THREADS", "PRUNEBOARD_TIMEOUT", *(n for n in os.environ if "SLURM" in n)]:
            os.environ.pop(name, None)
        os.environ.update({name: str(value) for name, value in variables.items()})

    only()
    yield only
    os.environ.clear()
    os.environ.update(before)


def test_single_process(environment):
    """Without a launcher, or under one that started a single process, the process is rank 0 of 1."""
    assert World.current() == World(0, 1)
    environment(WORLD_SIZE=1)
    assert World.current() == World(0, 1)
    environment(RANK=0, WORLD_SIZE=1)
    assert World.current().is_main


def test_launcher_variables(environment):
    """RANK and WORLD_SIZE are used as they are if there is a rendezvous address."""
    environment(**TORCHRUN)
    assert World.current() == World(1, 2)
    assert not World.current().is_main


def test_local_environments(environment):
    """Each process of one machine reads its own rank, and all have the same free port."""
    variables = local_environments(3)
    for rank, own in enumerate(variables):
        environment(**own)
        assert World.current() == World(rank, 3)
    assert len({own["MASTER_PORT"] for own in variables}) == 1
    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"RANK": None}, "WORLD_SIZE is set and RANK is not"),
        ({"WORLD_SIZE": None}, "RANK is set and WORLD_SIZE is not"),
        ({"RANK": "2"}, "RANK=2 is not one of WORLD_SIZE=2 processes"),
        ({"WORLD_SIZE": "0"}, "RANK=1 is not one of WORLD_SIZE=0 processes"),
        ({"RANK": "-1"}, "RANK=-1 is not a whole number"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two is not a whole number"),
        ({"LOCAL_RANK": ""}, "LOCAL_RANK= is not a whole number"),
        ({"MASTER_ADDR": None}, "MASTER_ADDR is not set: give all 2 processes"),
        ({"MASTER_PORT": None}, "MASTER_PORT is not set: give all 2 processes the same port"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT is 70000: give all 2"),
    ],
)
def test_incomplete_or_invalid_variables_are_refused(environment, change, message):
    """The error names the missing or invalid variable and what to set, in one line."""
    environment(**{name: value for name, value in (TORCHRUN | change).items() if value is not None})
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        World.current()
    assert "\n" not in str(caught.value)


def test_slurm_step(environment):
    """Under srun each task is a process of the run, and torch and DeepSpeed find the usual variables."""
    environment(**STEP)
    assert World.current() == World(3, 4)
    found = {name: os.environ[name] for name in TORCHRUN}
    port = found.pop("MASTER_PORT")
    assert found == {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node003"}
    assert FIRST_PORT <= int(port) < FIRST_PORT + PORTS
    assert World.current() == World(3, 4)


def test_every_step_has_its_own_port(environment):
    """All tasks of a step have the same port; two steps of a job, and two jobs, have different ones."""
    ports = []
    for job, step, task in itertools.product((1, 2), (0, 1), (0, 1)):
        environment(**STEP | {"SLURM_JOB_ID": job, "SLURM_STEP_ID": step, "SLURM_PROCID": task})
        World.current()
        ports.append(os.environ["MASTER_PORT"])
    assert len(set(ports)) == 4
    assert ports[::2] == ports[1::2]


def test_step_on_one_node_uses_the_loopback_address(environment):
    """On one node the address is 127.0.0.1, which needs no name resolution; an address set by the user is kept."""
    environment(**STEP | {"SLURM_STEP_NUM_NODES": "1"})
    World.current()
    assert os.environ["MASTER_ADDR"] == "127.0.0.1"
    environment(**STEP, MASTER_ADDR="10.0.0.7")
    World.current()
    assert os.environ["MASTER_ADDR"] == "10.0.0.7"


@pytest.mark.parametrize(
    "job",
    [
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_ID": "4294967290"},
    ],
    ids=["sbatch script", "salloc shell"],
)
def test_a_job_is_not_a_step(environment, job):
    """The script of sbatch and the shell of salloc are a single process, however many tasks their job may have."""
    environment(SLURM_JOB_ID=4711, **job)
    assert World.current() == World(0, 1)
    assert "RANK" not in os.environ


def test_launcher_inside_a_step(environment):
    """The variables of a launcher that srun started have priority over the step's."""
    environment(**STEP, **TORCHRUN)
    assert World.current() == World(1, 2)
    assert os.environ["MASTER_ADDR"] == "alpha"


def test_step_without_a_node_list_needs_an_address(environment):
    """If SLURM gives no list of nodes, MASTER_ADDR must be set."""
    environment(**{name: value for name, value in STEP.items() if name != "SLURM_STEP_NODELIST"})
    with pytest.raises(UsageError, match="MASTER_ADDR is not set"):
        World.current()


@st.composite
def node_lists(draw):
    """A node list in SLURM's short form, and all its hosts, generated independently of `first_host`."""
    items = []
    hosts = []
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.from_regex(r"[a-z]{1,5}(-[a-z0-9]{1,3})?", fullmatch=True))
        parts, numbers = [], []
        for _ in range(draw(st.integers(0, 3))):
            width = draw(st.integers(1, 4))
            low = draw(st.integers(0, 10**width - 1))
            high = draw(st.integers(low, min(low + 5, 10**width - 1)))
            run = [str(number).zfill(width) for number in range(low, high + 1)]
            parts.append(run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}")
            numbers += run
        items.append(f"{name}[{','.join(parts)}]" if parts else name)
        hosts += [name + number for number in numbers] if numbers else [name]
    return ",".join(items), hosts


@settings(deadline=None, max_examples=200)
@given(node_lists())
def test_first_host_of_a_node_list(case):
    """The first host of the short form is the first of all hosts, with its leading zeros."""
    text, hosts = case
    assert first_host(text) == hosts[0]


def test_first_host_of_several_brackets():
    """Names with more than one bracket, and an empty list, are parsed too."""
    assert first_host("rack[2-3]node[07,09],x") == "rack2node07"
    assert first_host("gpu1,node[003-005,9]") == "gpu1"
    assert first_host("") == ""


def test_timeout_is_read_from_the_environment(environment):
    """The timeout is ten minutes, or PRUNEBOARD_TIMEOUT seconds; anything but a positive number is refused."""
    assert timeout().total_seconds() == 600
    environment(PRUNEBOARD_TIMEOUT="2.5")
    assert timeout().total_seconds() == 2.5
    for wrong in ("0", "-1", "ten", "", "1e3", "inf"):
        environment(PRUNEBOARD_TIMEOUT=wrong)
        with pytest.raises(UsageError, match=f"PRUNEBOARD_TIMEOUT={wrong} is not a number of seconds"):
            timeout()


@pytest.mark.parametrize("local_size", [1, 2, 3, 10**6])
def test_cores_are_divided(environment, local_size):
    """Processes on one machine use at least one thread each, and otherwise no more threads than there are cores."""
    cores = len(os.sched_getaffinity(0))
    assert thread_count(local_size) == max(1, cores // local_size)
    environment(OMP_NUM_THREADS=3)
    assert thread_count(local_size) is None


def test_cores_of_a_slurm_task_are_not_divided(environment):
    """A task uses all cores that srun bound it to; the processes of a launcher inside one task divide its cores."""
    environment(**STEP, SLURM_CPUS_PER_TASK=6)
    World.current()
    assert thread_count(2) == 6
    environment(**STEP | TORCHRUN, SLURM_CPUS_PER_TASK=6)
    World.current()
    assert thread_count(10**6) == 1
