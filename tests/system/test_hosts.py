"""Runs on two hosts, emulated by two network namespaces, with the commands of `docs/hosts.md`.

The tests marked `multihost` that use both hosts need root, and are skipped if namespaces are not allowed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "hosts.md"
NAMES = ("alpha", "beta")
ADDRESSES = ("10.213.7.1", "10.213.7.2")
RUN = "run --method magnitude --model test_vit --sparsity 0.5 --limit-train 142 --batch-size 32 --warmup-epochs 0"
LONG = 60
"""Epochs of a run that is still training when the test ends one of its hosts."""

HANG = 180
"""Seconds after which a process is considered stuck; processes wait for each other for 600."""


def blocks(language, section):
    """Return the fenced blocks of one section of the page."""
    (text,) = [part for part in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE) if part.startswith(section)]
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def with_tiny_run(command):
    """Replace the run of one of the page's commands by a run of a few seconds; the launcher's part stays."""
    before, found, _ = command.partition("run --method ")
    assert found
    return before + RUN


def pairs_of_commands():
    """Return, by launcher, the page's commands for the first host and for the second."""
    found = {}
    for launcher, section in (("torchrun", "torchrun"), ("deepspeed", "The deepspeed launcher")):
        (pair,) = [block for block in blocks("sh", section) if len(block.splitlines()) == 2]
        found[launcher] = [with_tiny_run(line) for line in pair.splitlines()]
    return found


def environment(**more):
    """Return the environment with this installation's commands first, and without a launcher's variables."""
    clean = {name: value for name, value in os.environ.items() if not re.match("SLURM|RANK|WORLD_SIZE|MASTER", name)}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return clean | {"PATH": path, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", **more}


def records(results):
    """Return every record below a folder."""
    return [json.loads(path.read_text()) for path in Path(results).rglob("run.json")]


# Two hosts


class Hosts:
    """Two connected namespaces, with their own names, addresses and network, but the same files and cores."""

    def __init__(self, folder):
        self.folder = folder
        self.started = []
        self.spaces = [f"pruneboard-{name}-{os.getpid()}" for name in NAMES]
        names = "127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for a, n in zip(ADDRESSES, NAMES, strict=True))
        for space in self.spaces:
            ip("netns", "add", space)
            (Path("/etc/netns") / space).mkdir(parents=True)
            (Path("/etc/netns") / space / "hosts").write_text(names)
        first, second = self.spaces
        ip("-n", first, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", second)
        for space, address in zip(self.spaces, ADDRESSES, strict=True):
            ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", space, "link", "set", "eth0", "up")
            ip("-n", space, "link", "set", "lo", "up")
        (hostfile,) = [block for block in blocks("text", "The deepspeed launcher") if "slots" in block]
        (folder / "hostfile").write_text(hostfile)

    def start(self, commands, *arguments, **variables):
        """Run a command on each host, with its output in `<host>.log`."""
        variables = {"GLOO_SOCKET_IFNAME": "eth0"} | variables
        started = [self._start(rank, command, arguments, variables) for rank, command in enumerate(commands)]
        self.started += started
        return started

    def _start(self, rank, command, arguments, variables):
        name = NAMES[rank]
        line = f"hostname {name} && exec {command} {shlex.join(arguments)} --results {self.folder / name}"
        with self.log(rank).open("w") as log:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.spaces[rank], "unshare", "--uts", "sh", "-c", line],
                cwd=self.folder,
                env=environment(**variables),
                stdout=log,
                stderr=log,
            )

    def log(self, rank):
        """Return the file with a host's output."""
        return self.folder / f"{NAMES[rank]}.log"

    def end_of_logs(self):
        """Return the end of each host's output."""
        return "\n\n".join(self.log(rank).read_text()[-2000:] for rank in range(len(NAMES)))

    def wait_for_epoch(self, started):
        """Wait until the run has started and saved its first epoch."""
        while not re.search(r"^epoch +2", self.log(0).read_text(), re.MULTILINE):
            assert started[0].poll() is None, self.end_of_logs()
            time.sleep(0.1)

    def kill_all(self, rank):
        """Kill every process on a host."""
        for pid in ip("netns", "pids", self.spaces[rank]).split():
            subprocess.run(["kill", "-9", pid], check=False, stderr=subprocess.DEVNULL)

    def cut_cable(self):
        """Disconnect the hosts from each other; both keep running."""
        ip("-n", self.spaces[1], "link", "set", "eth0", "down")

    def remove(self):
        """Remove the namespaces and end their processes."""
        for rank, space in enumerate(self.spaces):
            if Path("/var/run/netns", space).exists():
                self.kill_all(rank)
                ip("netns", "del", space)
            shutil.rmtree(Path("/etc/netns") / space, ignore_errors=True)
        for process in self.started:
            process.wait(HANG)


def ip(*arguments):
    """Call `ip`."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


@pytest.fixture
def hosts(tmp_path):
    """Two hosts; skips the test if they cannot be set up."""
    if shutil.which("ip") is None:
        pytest.skip("needs `ip` (iproute2)")
    if os.geteuid():
        pytest.skip("needs root: network namespaces")
    made = Hosts.__new__(Hosts)
    try:
        made.__init__(tmp_path)
    except OSError as error:
        made.remove()
        pytest.skip(f"no network namespaces here: {error}")
    yield made
    made.remove()


LAUNCHERS = pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])


@pytest.mark.multihost
@LAUNCHERS
def test_two_hosts_make_one_record(hosts, launcher):
    """With the page's commands, the run ends with exit code 0 on both hosts and one record, on the first."""
    started = hosts.start(pairs_of_commands()[launcher], "--epochs", "2")
    codes = [process.wait(HANG) for process in started]
    assert codes == [0, 0], hosts.end_of_logs()
    (made,) = records(hosts.folder)
    assert (made["status"], made["engine"]["world_size"]) == ("done", 2)
    assert records(hosts.folder / "alpha") == [made]
    assert "10.213" not in json.dumps(made)


@pytest.mark.multihost
@LAUNCHERS
def test_lost_host_ends_the_run_and_the_same_command_finishes_it(hosts, launcher):
    """If all processes of one host are killed, the other's run is interrupted with 75; the same commands finish it."""
    commands = pairs_of_commands()[launcher]
    started = hosts.start(commands, "--epochs", str(LONG))
    hosts.wait_for_epoch(started)
    hosts.kill_all(1)
    code = started[0].wait(HANG)
    started[1].wait(HANG)
    (made,) = records(hosts.folder)
    assert (made["status"], made["error"]["kind"]) == ("interrupted", "LostPeerError")
    output = hosts.log(0).read_text()
    assert "error: a process was lost, as process 0 noticed" in output
    assert "10.213" not in json.dumps(made)
    if launcher == "deepspeed":  # it passes the exit code on
        assert code == 75
    else:
        assert code == 1
        assert re.search(r"exitcode\s*: 75", output)
    again = hosts.start(commands, "--epochs", str(LONG))
    assert [process.wait(2 * HANG) for process in again] == [0, 0]
    (made,) = records(hosts.folder)
    assert made["status"] == "done"
    assert [attempt["step"] > 0 for attempt in made["lifecycle"]["attempts"]] == [False, True]


@pytest.mark.multihost
def test_silence_ends_the_run_on_both_hosts(hosts):
    """If the cable is cut, no connection closes; both hosts end after PRUNEBOARD_TIMEOUT."""
    started = hosts.start(pairs_of_commands()["deepspeed"], "--epochs", str(LONG), PRUNEBOARD_TIMEOUT="30")
    hosts.wait_for_epoch(started)
    hosts.cut_cable()
    assert [process.wait(HANG) for process in started] == [75, 75]
    (made,) = records(hosts.folder)
    assert (made["status"], made["error"]["kind"]) == ("interrupted", "LostPeerError")
    assert "(timed out)" in hosts.log(0).read_text()


# One machine


@pytest.mark.multihost
@pytest.mark.parametrize("section", ["One machine", "torchrun", "The deepspeed launcher"])
def test_one_machine(tmp_path, section):
    """The page's commands for one machine run two processes on it."""
    lines = [line for block in blocks("sh", section) for line in block.splitlines()]
    (line,) = [line for line in lines if not re.search("nnodes|hostfile", line)]
    command = f"{with_tiny_run(line)} --epochs 1 --results {tmp_path}"
    if section == "One machine":
        command += line[line.index(" --procs") :]
    subprocess.run(shlex.split(command), env=environment(), check=True, timeout=HANG, capture_output=True)
    (made,) = records(tmp_path)
    assert (made["status"], made["engine"]["world_size"]) == ("done", 2)


SRUN = """#!{python}
import os, subprocess, sys
step = {{"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "here"}}
tasks = [{{"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}} for i in range(2)]
started = [subprocess.Popen(sys.argv[1:], env=os.environ | step | task) for task in tasks]
sys.exit(max(process.wait() for process in started))
"""


@pytest.mark.multihost
def test_batch_script_of_slurm(tmp_path):
    """The page's batch script carries out one run on the tasks that srun (here a replacement) starts."""
    (script,) = [block for block in blocks("sh", "SLURM") if block.startswith("#!")]
    lines = [
        f"{with_tiny_run(line)} --epochs 1 --results {tmp_path / 'results'}" if line.startswith("srun") else line
        for line in script.splitlines()
    ]
    (tmp_path / "job.sh").write_text("\n".join(lines))
    (tmp_path / "srun").write_text(SRUN.format(python=sys.executable))
    (tmp_path / "srun").chmod(0o755)
    batch = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_CPUS_PER_TASK": "1"}
    clean = environment(**batch)
    clean["PATH"] = os.pathsep.join([str(tmp_path), clean["PATH"]])
    subprocess.run(["bash", tmp_path / "job.sh"], env=clean, check=True, timeout=HANG, capture_output=True)
    (made,) = records(tmp_path)
    assert (made["status"], made["engine"]["world_size"]) == ("done", 2)
