"""`pruneboard doctor`: check the machine and the installation."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import click
from rich import box
from rich.table import Table
from rich.text import Text

from pruneboard import registry
from pruneboard.cli import limits
from pruneboard.errors import PruneboardError
from pruneboard.records import provenance, store
from pruneboard.report import render

LOW_DISK = 2 * 1024**3


@dataclass(frozen=True)
class Diagnosis:
    """One line of the report: what was examined, its status, and what was found or what to do."""

    status: Literal["ok", "note", "wrong"]
    what: str
    detail: str


@click.command("doctor")
@click.option("--results", type=click.Path(), default="results", show_default=True, help="The results folder to check.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(results: str, *, as_json: bool) -> int:
    """Check this machine and the installation, and report problems.

    Trains two steps with DeepSpeed, imports every installed pruner, and examines devices, disk space, versions, and
    the shell's working folder and memory limit. Exits with 0 if runs can work here, and with 1 if a problem prevents
    them.
    """
    findings = [*_shell()]
    if all(f.status != "wrong" for f in findings):  # else torch would end this process
        findings += [f for check in (_devices, _deepspeed, _plugins, lambda: _disk(results)) for f in check()]
    findings = [*_versions(), *findings, *_extras()]
    code = 1 if any(f.status == "wrong" for f in findings) else 0
    if as_json:
        click.echo(json.dumps({"ok": code == 0, "findings": [asdict(f) for f in findings]}, indent=2))
        return code
    table = Table("", "what", "found", box=box.SIMPLE_HEAD)
    styles = {"ok": "green", "note": "yellow", "wrong": "bold red"}
    for finding in findings:
        table.add_row(Text(finding.status, styles[finding.status]), finding.what, Text(finding.detail))
    click.echo(render(table))
    return code


def _versions() -> Iterator[Diagnosis]:
    yield Diagnosis("ok", "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in ("pruneboard", *provenance.PACKAGES, "scipy", "entrypoints"):
        version = provenance.version_of(name)
        yield Diagnosis("ok" if version else "wrong", name, version or f"not installed: pip install {name}")


def _shell() -> Iterator[Diagnosis]:
    folder = limits.working_folder_problem()
    if folder:
        yield Diagnosis("wrong", "working folder", folder)
        return
    limit = limits.memory_limit()
    if limit is None:
        return
    torch = limits.memory_problem(limits.TORCH)
    charts = limits.memory_problem(limits.CHARTS)
    if torch:
        yield Diagnosis("wrong", "memory limit", f"{torch}: raise it, or remove it with ulimit -v unlimited")
    elif charts:
        yield Diagnosis("note", "memory limit", f"{charts}: raise it, or pass --format md,tex,csv,json to compare")
    else:
        yield Diagnosis("ok", "memory limit", f"ulimit -v {limit // 1024} is enough for torch")


def _devices() -> Iterator[Diagnosis]:
    import torch

    yield Diagnosis("ok", "cpu", f"{provenance.processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads")
    if not torch.cuda.is_available():
        yield Diagnosis("note", "cuda", "torch finds no CUDA device: runs use the CPU")
        return
    for index in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(index).total_memory / 1024**3
        yield Diagnosis("ok", f"cuda:{index}", f"{torch.cuda.get_device_name(index)}, {memory:.0f} GiB")


def _deepspeed() -> Iterator[Diagnosis]:
    try:
        loss = _two_steps()
    except Exception as error:  # noqa: BLE001 - reports whatever DeepSpeed raises
        yield Diagnosis("wrong", "deepspeed engine", f"two steps failed: {type(error).__name__}: {error}")
        return
    yield Diagnosis("ok", "deepspeed engine", f"two training steps done, loss {loss:.3f}")


def _two_steps() -> float:
    import torch

    from pruneboard.spec import load_recipe
    from pruneboard.training.engine import Engine
    from pruneboard.training.optim import parameter_groups

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = torch.nn.Linear(4, 2)
    groups = parameter_groups(model, [], load_recipe("digits"), None)
    engine = Engine(model, groups, device=device, micro_batch=8, clip=1.0, zero=0, precision="fp32")
    for _ in range(2):
        loss = engine.forward(torch.ones(8, 4, device=device)).square().mean()
        engine.backward(loss, last=True)
        engine.step()
    engine.close()
    return float(loss.detach())


def _plugins() -> Iterator[Diagnosis]:
    for info in registry.installed():
        what = f"method {ascii(info.name) if info.name_problem else info.name}"
        problem = registry.problem(info)
        if problem:
            yield Diagnosis("wrong" if info.distribution == "pruneboard" else "note", what, problem)
        else:
            yield Diagnosis("ok", what, f"{info.distribution} {info.version} ({info.target})")


def _disk(results: str) -> Iterator[Diagnosis]:
    try:
        store.check_writable(results)
    except PruneboardError as error:
        yield Diagnosis("wrong", "results folder", str(error))
        return
    folder = Path(results).absolute()
    free = shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free
    status: Literal["ok", "note"] = "ok" if free > LOW_DISK else "note"
    yield Diagnosis(status, "results folder", f"{results} can be written, {free / 1024**3:.0f} GiB free")


def _extras() -> Iterator[Diagnosis]:
    version = provenance.version_of("tensorboard")
    missing = "not installed, needed only for --tensorboard: pip install 'pruneboard[tensorboard]'"
    yield Diagnosis("ok" if version else "note", "tensorboard", version or missing)
