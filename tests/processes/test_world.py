"""A process's place: what launchers say in the environment, and what is refused because it is half of it."""

from __future__ import annotations

import itertools
import os
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneboard.errors import UsageError
from pruneboard.processes.world import FIRST_PORT, PORTS, World, first_host, thread_count, timeout

PLACE = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "alpha", "MASTER_PORT": "29500"}
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
    """A function that makes some variables the only ones about processes; what was set before comes back."""
    before = dict(os.environ)

    def only(**variables):
        for name in [*PLACE, "OMP_NUM_THREADS", "PRUNEBOARD_TIMEOUT", *(n for n in os.environ if "SLURM" in n)]:
            os.environ.pop(name, None)
        os.environ.update({name: str(value) for name, value in variables.items()})

    only()
    yield only
    os.environ.clear()
    os.environ.update(before)


def test_alone_where_nothing_is_said(environment):
    """Without a launcher, or under one of a single process, a process is alone and leads."""
    assert World.current() == World(0, 1)
    environment(WORLD_SIZE=1)
    assert World.current() == World(0, 1)
    environment(RANK=0, WORLD_SIZE=1)
    assert World.current().is_main


def test_launchers_place(environment):
    """RANK and WORLD_SIZE with a place to meet are taken as they are."""
    environment(**PLACE)
    assert World.current() == World(1, 2)
    assert not World.current().is_main


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
def test_half_a_place_is_refused(environment, change, message):
    """What is missing or cannot be is named in one line that says what to set."""
    environment(**{name: value for name, value in (PLACE | change).items() if value is not None})
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        World.current()
    assert "\n" not in str(caught.value)


def test_step_of_slurm(environment):
    """Under srun a task is a process of a run; torch and DeepSpeed find its place in the usual variables."""
    environment(**STEP)
    assert World.current() == World(3, 4)
    told = {name: os.environ[name] for name in PLACE}
    port = told.pop("MASTER_PORT")
    assert told == {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node003"}
    assert FIRST_PORT <= int(port) < FIRST_PORT + PORTS
    assert World.current() == World(3, 4)


def test_steps_have_ports_of_their_own(environment):
    """Every task of a step has the same port, and two steps of a job, or two jobs, have not."""
    ports = []
    for job, step, task in itertools.product((1, 2), (0, 1), (0, 1)):
        environment(**STEP | {"SLURM_JOB_ID": job, "SLURM_STEP_ID": step, "SLURM_PROCID": task})
        World.current()
        ports.append(os.environ["MASTER_PORT"])
    assert len(set(ports)) == 4
    assert ports[::2] == ports[1::2]


def test_step_on_one_node_meets_there(environment):
    """On one node no name has to be looked up; an address that the user gives is kept in any case."""
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
def test_a_job_is_no_step(environment, job):
    """The script of sbatch and the shell of salloc are one process, however many tasks their job may have."""
    environment(SLURM_JOB_ID=4711, **job)
    assert World.current() == World(0, 1)
    assert "RANK" not in os.environ


def test_launcher_inside_a_step(environment):
    """A launcher that srun started speaks for itself: its processes are not the step's tasks."""
    environment(**STEP, **PLACE)
    assert World.current() == World(1, 2)
    assert os.environ["MASTER_ADDR"] == "alpha"


def test_step_without_a_node_list_asks_for_an_address(environment):
    """Where SLURM does not say which nodes, the address has to be given."""
    environment(**{name: value for name, value in STEP.items() if name != "SLURM_STEP_NODELIST"})
    with pytest.raises(UsageError, match="MASTER_ADDR is not set"):
        World.current()


@st.composite
def node_lists(draw):
    """A node list in SLURM's short form with all its hosts, spelled out by a rule of its own."""
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
    """The first host of the short form is the first of all hosts, leading zeros kept."""
    text, hosts = case
    assert first_host(text) == hosts[0]


def test_first_host_of_several_brackets():
    """Names with more than one bracket, and an empty list, are read too."""
    assert first_host("rack[2-3]node[07,09],x") == "rack2node07"
    assert first_host("gpu1,node[003-005,9]") == "gpu1"
    assert first_host("") == ""


def test_timeout_is_read_from_the_environment(environment):
    """Ten minutes, or PRUNEBOARD_TIMEOUT seconds; anything else is refused."""
    assert timeout().total_seconds() == 600
    environment(PRUNEBOARD_TIMEOUT="2.5")
    assert timeout().total_seconds() == 2.5
    for wrong in ("0", "-1", "ten", "", "1e3", "inf"):
        environment(PRUNEBOARD_TIMEOUT=wrong)
        with pytest.raises(UsageError, match=f"PRUNEBOARD_TIMEOUT={wrong} is not a number of seconds"):
            timeout()


@pytest.mark.parametrize("local_size", [1, 2, 3, 10**6])
def test_cores_are_shared(environment, local_size):
    """Processes on one machine take no more threads together than there are cores, and one each at least."""
    cores = len(os.sched_getaffinity(0))
    assert thread_count(local_size) == max(1, cores // local_size)
    environment(OMP_NUM_THREADS=3)
    assert thread_count(local_size) is None


def test_cores_that_srun_gave_are_not_shared_again(environment):
    """A task bound to its own cores takes them all; processes of a launcher inside one task share its cores."""
    environment(**STEP, SLURM_CPUS_PER_TASK=6)
    World.current()
    assert thread_count(2) == 6
    environment(**STEP | PLACE, SLURM_CPUS_PER_TASK=6)
    World.current()
    assert thread_count(10**6) == 1
