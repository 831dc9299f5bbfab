"""Which heavy packages a piece of code imports, measured in a new interpreter."""

from __future__ import annotations

import subprocess
import sys

from project import ROOT

HEAVY = ("torch", "torchvision", "timm", "deepspeed", "sklearn")


def loaded(code: str) -> set[str]:
    """Run code in a new interpreter and return which of `HEAVY` it imported."""
    report = f"\nimport sys\nprint('LOADED', *[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("LOADED")[2].split())
