"""Virtual environments for tests: they use the packages installed here, and do not change them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

OFFLINE = {
    "PIP_NO_INDEX": "1",
    "PIP_NO_BUILD_ISOLATION": "0",  # in pip, 0 means no isolation: the build uses the setuptools installed here
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
}

ANSWERS = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from pruneboard.cli import invoke

answers = []
for arguments in json.loads(sys.argv[1]):
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = invoke(arguments)
    answers.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(answers))
"""


class Environment:
    """A virtual environment in a folder."""

    def __init__(self, folder, **variables):
        self.python = folder / "bin" / "python"
        # As if activated. Tests compare printed tables, so the width must not depend on the terminal.
        path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        self.variables = {**os.environ, "PATH": path, "VIRTUAL_ENV": str(folder), "COLUMNS": "160", **variables}

    def run(self, command, cwd, timeout=300):
        """Run a list of arguments, or a shell script, and return the completed process, with both streams as text."""
        arguments = ["bash", "-euo", "pipefail", "-c", command] if isinstance(command, str) else command
        return subprocess.run(
            arguments, cwd=cwd, env=self.variables, capture_output=True, text=True, check=False, timeout=timeout
        )

    def output(self, command, cwd, timeout=300):
        """Run a command, assert that it succeeds, and return its standard output."""
        done = self.run(command, cwd, timeout)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def pruneboard(self, cwd, *arguments):
        """Run the pruneboard of the environment, and return the completed process."""
        return self.run([self.python, "-m", "pruneboard", *arguments], cwd)

    def answers(self, cwd, *commands):
        """Run several commands of the environment's pruneboard in one process: exit code, output and errors of each."""
        text = self.output([self.python, "-c", ANSWERS, json.dumps(commands)], cwd)
        return [tuple(answer) for answer in json.loads(text)]


def layered(folder):
    """An environment that also uses the packages of the current one, and installs packages without a network.

    Its `pip` and `pruneboard` run with its own Python.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=300)
    made = Environment(folder, **OFFLINE)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    outer = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    lines = [f"import site; site.addsitedir({place!r})\n" for place in outer]  # also reads the .pth files there
    (packages / "outer.pth").write_text("".join(lines), encoding="utf-8")
    for name in ("pip", "pruneboard"):
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(str(made.python))} -m {name} "$@"\n', encoding="utf-8")
        script.chmod(0o755)
    return made


def fresh(folder):
    """An environment that contains only pip, is isolated, and installs from pip's default index."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=300)
    return Environment(folder, PYTHONPATH="", PIP_DISABLE_PIP_VERSION_CHECK="1")


def copied(source, folder):
    """A copy of a source tree, because a build writes files next to the sources."""
    for path in sorted(Path(source).rglob("*")):
        if path.is_file() and not {"__pycache__", "build"} & set(path.parts):
            target = folder / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return folder
