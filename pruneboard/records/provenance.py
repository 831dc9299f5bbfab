"""What produced a number: versions, the commit, the hardware. No host name and no path of the user's."""

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


def software(target: str) -> dict[str, Any]:
    """Return the record's `software`: versions, the git commit where pruneboard runs from a checkout, and code.

    `code` holds a digest of pruneboard's own files and of the method's, since nobody is forced to raise a version.

    Args:
        target: the method, as `module:attribute`.
    """
    versions = {name: version_of(name) for name in PACKAGES}
    commit = _git("rev-parse", "HEAD")
    dirty = bool(_git("status", "--porcelain", "--untracked-files=no")) if commit else None
    own = version_of("pruneboard")
    digests = {"pruneboard": _digest("pruneboard"), "method": _digest(_package(target))}
    made_by = {"python": platform.python_version(), "pruneboard": own, "commit": commit, "dirty": dirty}
    return {**made_by, "code": digests, **versions}


def version_of(distribution: str) -> str | None:
    """Return the installed version of `distribution`, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def code_versions(target: str) -> dict[str, str]:
    """Return what a run must go on with: the libraries that train, and digests of pruneboard's and the method's code.

    Args:
        target: the method, as `module:attribute`; the whole package or the one file that holds it counts.
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
    """Ask git about the checkout this file lies in; None in an installed package or without git."""
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


def now() -> str:
    """Return the time in UTC, to the second."""
    return dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
