"""The provenance of a result: versions, commit, code digests and hardware, without host names and paths."""

from __future__ import annotations

import datetime as dt
import hashlib
import importlib.util
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "timm", "deepspeed", "numpy")
"""Distributions whose versions are recorded."""

DRIVER = Path("/sys/module/nvidia/version")
"""Where Linux states the version of NVIDIA's driver."""


def software(target: str) -> dict[str, Any]:
    """Return the block `software` of a record: versions, git commit and code digests.

    The git commit is that of pruneboard's checkout, or None if pruneboard is installed as a package. `code` holds
    digests of the source files of pruneboard and of the method, because code can change without a new version.

    Args:
        target: the method's class, as `module:attribute`.
    """
    versions = {name: version_of(name) for name in PACKAGES}
    commit = _git("rev-parse", "HEAD")
    dirty = bool(_git("status", "--porcelain", "--untracked-files=no")) if commit else None
    own = version_of("pruneboard")
    digests = {"pruneboard": _digest("pruneboard"), "method": _digest(_package(target))}
    made_by = {"python": platform.python_version(), "pruneboard": own, "commit": commit, "dirty": dirty}
    return {**made_by, "code": digests, **versions}


def version_of(distribution: str) -> str | None:
    """Return the installed version of `distribution`, or None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def code_versions(target: str) -> dict[str, str]:
    """Return what must be equal for a run to be resumed: versions of libraries, and code digests.

    The digest of a method covers its whole top-level package, or its file if it is a single module.

    Args:
        target: the method's class, as `module:attribute`.
    """
    libraries = {name: version_of(name) or "none" for name in ("torch", "timm", "deepspeed")}
    return {**libraries, "code of pruneboard": _digest("pruneboard"), "code of the method": _digest(_package(target))}


def _package(target: str) -> str:
    return target.partition(":")[0].partition(".")[0]


def _digest(module: str) -> str:
    found = importlib.util.find_spec(module)
    folders = list(found.submodule_search_locations or ()) if found else []
    files = [path for folder in folders for path in Path(folder).rglob("*.py")]
    if found and not folders and found.origin:
        files = [Path(found.origin)]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _git(*arguments: str) -> str | None:
    """Return the output of a git command in the checkout of this file; None without a checkout or without git."""
    root = Path(__file__).resolve().parents[2]
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
    """Return the block `hardware` of a record; on a GPU with the versions of what computes there.

    Args:
        device: the `torch.device` the run uses.
        threads: number of CPU threads.
    """
    import torch

    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": device.type,
        "gpu": gpu,
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        **(_cuda_versions() if device.type == "cuda" else {}),
    }


def _cuda_versions() -> dict[str, str | None]:
    import torch

    return {
        "cuda": torch.version.cuda,
        "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
        "nccl": ".".join(map(str, torch.cuda.nccl.version())),  # type: ignore[no-untyped-call]
        "driver": DRIVER.read_text(encoding="ascii").strip() if DRIVER.exists() else None,
    }


def processor() -> str:
    """Return the model name of the processor, or else what Python's `platform` reports."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def now() -> str:
    """Return the current time in UTC, to the second, as `2025-01-31T12:00:00Z`."""
    return dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
