"""Limits of the shell under which libraries end the process with messages of their own: found before they do.

torch, OpenBLAS and V8 abort if they cannot reserve memory under `ulimit -v`, and MKL aborts without a working folder.
None of this can be caught. So where such a limit is set, a library is first loaded in another process.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys

from pruneboard.errors import UsageError

TORCH = "torch"
CHARTS = "the library that draws charts"
_PROGRAMS = {
    TORCH: "import numpy, torch",
    CHARTS: "import vl_convert; vl_convert.vegalite_to_svg({'data': {'values': []}, 'mark': 'bar'})",
}

DRAWN = ("html", "svg", "png")
"""Formats of a leaderboard that need the library that draws charts."""


def memory_limit() -> int | None:
    """Return the limit of this process's address space in bytes (`ulimit -v`), or None if there is none."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit


def memory_problem(what: str) -> str:
    """Return why `what`, `TORCH` or `CHARTS`, does not run under the memory limit; empty if it does."""
    limit = memory_limit()
    if limit is None:
        return ""
    trial = subprocess.run([sys.executable, "-c", _PROGRAMS[what]], capture_output=True, check=False)
    if trial.returncode == 0:
        return ""
    return f"{what} does not fit into the memory limit of this shell, ulimit -v {limit // 1024}"


def check_memory(what: str, remedy: str) -> None:
    """Check that `what` runs under the memory limit, if there is one; `remedy` completes the message.

    Raises:
        UsageError: it does not.
    """
    problem = memory_problem(what)
    if problem:
        raise UsageError(f"{problem}: {remedy}")


def working_folder_problem() -> str:
    """Return why the working folder cannot be used; empty if it can."""
    try:
        os.getcwd()  # noqa: PTH109 - Path.cwd does the same
    except OSError:
        return "the working folder of this shell does not exist any more: cd to a folder that does"
    return ""


def check_working_folder() -> None:
    """Check that the working folder exists.

    Raises:
        UsageError: it was deleted.
    """
    problem = working_folder_problem()
    if problem:
        raise UsageError(problem)
