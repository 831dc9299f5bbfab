"""What produced a number: versions, the commit, the hardware. No host name and no path of the user's."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "timm", "deepspeed", "numpy")


def software() -> dict[str, Any]:
    """Return the record's `software`: versions, and the git commit where pruneboard runs from a checkout."""
    versions = {name: version_of(name) for name in PACKAGES}
    commit = _git("rev-parse", "HEAD")
    dirty = bool(_git("status", "--porcelain", "--untracked-files=no")) if commit else None
    own = version_of("pruneboard")
    return {"python": platform.python_version(), "pruneboard": own, "commit": commit, "dirty": dirty, **versions}


def version_of(distribution: str) -> str | None:
    """Return the installed version of `distribution`, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Ask git about the checkout this file lies in; None in an installed package or without git."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def hardware(device: Any, threads: int) -> dict[str, Any]:
    """Return the record's `hardware`: device, its name, processor, cores and threads."""
    import torch

    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": device.type,
        "gpu": gpu,
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
    }


def processor() -> str:
    """Return the processor's model name, or what the platform calls it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
