"""How a process exits."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def exit_process(code: int) -> NoReturn:
    """Flush the output and exit; if DeepSpeed was imported, without finalizing the interpreter.

    A finished DeepSpeed process on gloo aborts during finalization in about 2 % of runs (pytorch PR 179291).
    """
    if "deepspeed" not in sys.modules:
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code)
