"""The end of a process."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def exit_process(code: int) -> NoReturn:
    """Flush and end this process, without the interpreter's finalization once DeepSpeed was used in it.

    A finished DeepSpeed process on gloo aborts in finalization in about 2 % of runs (pytorch PR 179291);
    every other process ends the ordinary way.
    """
    if "deepspeed" not in sys.modules:
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code)
