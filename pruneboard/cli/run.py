"""`pruneboard run`: train, prune, evaluate and record."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from pruneboard import registry
from pruneboard.cli import flags
from pruneboard.coerce import read_toml
from pruneboard.errors import RunError, UnknownNameError, UsageError
from pruneboard.processes import interrupts, memory
from pruneboard.processes.world import World
from pruneboard.spec import RECIPE_FIELDS, Recipe, RunSpec, check_sparsity, default_recipe, load_recipe, recipe_names

SOURCES = {
    ParameterSource.COMMANDLINE: "flag",
    ParameterSource.DEFAULT_MAP: "config",
    ParameterSource.ENVIRONMENT: "environment",
}


def recipe_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add one flag per recipe field; its help is the field's line in the docstring of `Recipe`."""
    described = _attribute_help(Recipe.__doc__ or "")
    for name, kind in reversed(RECIPE_FIELDS.items()):
        flag = "--" + name.replace("_", "-")
        declaration = f"{flag}/--no-{flag[2:]}" if kind is bool else flag
        option = click.option(declaration, name, type=kind, default=None, help=f"Recipe: {described[name]}")
        function = option(function)
    return function


def _attribute_help(docstring: str) -> dict[str, str]:
    """Return name -> text of the `Attributes:` section of a Google docstring."""
    found: dict[str, str] = {}
    name = ""
    for line in docstring.partition("Attributes:")[2].splitlines():
        head, colon, text = line.strip().partition(": ")
        if colon and head.isidentifier() and line.startswith(" " * 8) and not line.startswith(" " * 9):
            name, found[head] = head, text
        elif name and line.strip():
            found[name] += " " + line.strip()
    return found


def _read_config(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Make a TOML file the defaults of every flag, refusing keys that no flag has."""
    del param
    if value is None:
        return None
    values = read_toml(Path(value))
    known = {p.name: p for p in ctx.command.params if p.name not in {"config", "help"}}
    aliases = {"options": "option"}
    ctx.default_map = {}
    for name, content in values.items():
        target = aliases.get(name, name.replace("-", "_"))
        if target not in known:
            raise UnknownNameError(f"key in {value}:", name, [n for n in known if n])
        pairs = [f"{key}={item}" for key, item in content.items()] if name == "options" else content
        ctx.default_map[target] = pairs
    return value


@click.command("run")
@click.option(
    "--method",
    "-m",
    required=True,
    shell_complete=flags.complete(flags.method_names),
    help="An installed pruner; `pruneboard list` shows them.",
)
@click.option(
    "--model",
    required=True,
    help="Any timm classifier, or resnet8_cifar, resnet20_cifar, resnet32_cifar, vgg19_cifar.",
)
@click.option("--sparsity", "-s", metavar="FRACTION", help="Fraction of zeros over the prunable weights, in [0, 1).")
@click.option("--option", "-o", multiple=True, metavar="KEY=VALUE", help="An option of the method; repeatable.")
@click.option("--track", type=str, help="prune (weights are trained) or supermask (only masks are learned).")
@click.option(
    "--dataset",
    "-d",
    default="digits",
    show_default=True,
    shell_complete=flags.complete(lambda: ["digits", "cifar10", "cifar100", "folder", "imagenet"]),
    help="digits, cifar10, cifar100, folder or imagenet.",
)
@click.option("--data-dir", type=click.Path(), help="Where the data set is.")
@click.option("--download", is_flag=True, help="Fetch cifar10 or cifar100 into --data-dir when it is not there.")
@click.option("--limit-train", type=int, metavar="N", help="Use only the first N training images, class by class.")
@click.option(
    "--recipe",
    shell_complete=flags.complete(recipe_names),
    help="Name or .toml path of the training; by default the data set's own.",
)
@recipe_options
@click.option(
    "--init",
    help="random (default), pretrained (timm's, downloaded) or FILE.safetensors; on the supermask track "
    "signed-constant (default) or kaiming-normal, with -scaled for fan-in times the share kept.",
)
@click.option("--ablation", help="Supermask track: measure a shuffled-mask, or redrawn-weights, instead of the result.")
@click.option("--stem", type=str, help="stock or small; by default small on real images of 64 px and below.")
@click.option("--seed", type=int, default=0, show_default=True, help="Every draw of the run derives from it.")
@click.option("--seeds", metavar="N|A,B,...", help="Several runs: 6 means 0..5, 3,7 a list; instead of --seed.")
@click.option(
    "--tuning-trials",
    type=int,
    metavar="N",
    default=0,
    show_default=True,
    help="Sets of options of this method that were tried on this data before these were chosen; recorded.",
)
@click.option("--tuning-source", metavar="TEXT", help="Where the options come from: a paper, or a search; recorded.")
@click.option("--precision", default="fp32", show_default=True, help="fp32, or bf16 (autocast).")
@click.option("--zero", type=int, default=0, show_default=True, help="DeepSpeed ZeRO stage: 0, 1 or 2.")
@click.option(
    "--compile",
    is_flag=True,
    help="torch.compile for the training passes: the same steps up to rounding, after a minute or several of "
    "compiling. Meant for long runs; on a CPU it can be slower than without.",
)
@click.option("--procs", type=int, default=1, show_default=True, help="Processes on this machine.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option(
    "--checkpoint-every",
    type=int,
    metavar="N",
    default=1000,
    show_default=True,
    help="Steps between checkpoints, besides one at the end of every epoch; 0: only there.",
)
@click.option(
    "--results", type=click.Path(), default="results", show_default=True, help="Folder that holds one folder per run."
)
@click.option(
    "--force",
    is_flag=True,
    help="Start again, although it is done (the record moves to superseded/) or could go on.",
)
@click.option("--tensorboard", is_flag=True, help="Write event files into the run's folder.")
@click.option("--dry-run", is_flag=True, help="Print what would run and where each value came from, and stop.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output, logs on standard error.")
@click.option("--quiet", "-q", is_flag=True, help="No progress; the summary stays.")
@click.option(
    "--config",
    type=click.Path(),
    is_eager=True,
    callback=_read_config,
    expose_value=False,
    help="TOML file of defaults for these flags; [options] holds the method's.",
)
@click.pass_context
def command(
    ctx: click.Context, /, *, dry_run: bool, as_json: bool, quiet: bool, seed: int, seeds: str | None, **given: Any
) -> int:
    """Train with a pruner, and record what came out.

    \b
    pruneboard run --method probmask --model resnet18 --sparsity 0.9
    pruneboard run --method magnitude --model resnet20_cifar --dataset folder --data-dir DIR --sparsity 0.95

    A run that is already done, with the same method version, options, data and training, is not repeated.
    One that was stopped goes on from its last checkpoint, on any number of processes.
    """
    specs = [build_spec(given, one) for one in seed_list(seeds, seed)]
    for spec in specs[:1]:
        registry.find(spec.method)
    if dry_run:
        _print_plan(ctx, specs[0], as_json=as_json)
        return 0
    previous = signal.signal(signal.SIGTERM, interrupts.stop_now)
    try:
        return _run_all(specs, as_json=as_json, quiet=quiet)
    finally:
        signal.signal(signal.SIGTERM, previous)


def build_spec(given: Mapping[str, Any], seed: int) -> RunSpec:
    """Return the spec that the flags describe."""
    values = dict(given)
    overrides = {name: values.pop(name) for name in RECIPE_FIELDS}
    options = flags.options(values.pop("option"))
    if values["sparsity"] is not None:
        values["sparsity"] = check_sparsity(values["sparsity"])
    spec = RunSpec(
        **values, options=options, seed=seed, overrides={k: v for k, v in overrides.items() if v is not None}
    )
    load_recipe(spec.recipe or default_recipe_of(spec.dataset), spec.overrides)  # refused before torch is loaded
    return spec


def default_recipe_of(dataset: str) -> str:
    """Return the data set's recipe, or say that there is no such data set."""
    known = [name for recipe in recipe_names() for name in load_recipe(recipe).default_for]
    if dataset not in known:
        raise UnknownNameError("data set", dataset, known)
    return default_recipe(dataset)


def seed_list(seeds: str | None, seed: int) -> list[int]:
    """Return the seeds asked for: `6` means 0..5, `3,7` a list."""
    if seeds is None:
        return [seed]
    try:
        numbers = [int(part) for part in seeds.split(",")]
    except ValueError:
        raise UsageError(f"--seeds is a count such as 6 or a list such as 3,7; found {seeds!r}") from None
    if "," in seeds:
        return numbers
    if numbers[0] < 1:
        raise UsageError(f"--seeds is a count of 1 or more; found {seeds}")
    return list(range(numbers[0]))


def _run_all(specs: list[RunSpec], *, as_json: bool, quiet: bool) -> int:
    """Run every seed, going on after a failed one; return the exit code. Only the first process speaks."""
    from pruneboard.experiment import lifecycle
    from pruneboard.processes import rendezvous

    memory.keep_freed_memory()
    speaks = World.current().is_main
    records: list[dict[str, Any] | None] = []
    code = 0
    for spec in specs:
        try:
            record = lifecycle.run(spec, _listener() if speaks and not quiet else None)
        except RunError as error:
            click.echo(f"error: {_which(spec, specs)}{error}", err=True)  # every process's own reason
            code = error.exit_code
            records.append(error.record)
            if rendezvous.is_broken():
                break
            continue
        records.append(record)
        if speaks and not as_json:
            _print_summary(record)
    if speaks and as_json:
        click.echo(json.dumps(records if len(specs) > 1 else records[0], indent=2, sort_keys=True))
    return code


def _which(spec: RunSpec, specs: list[RunSpec]) -> str:
    return f"seed {spec.seed}: " if len(specs) > 1 else ""


def _print_summary(record: dict[str, Any]) -> None:
    from pruneboard.report import render, summary

    click.echo(render(summary(record)))


def _listener() -> Any:
    from pruneboard.cli.progress import LineProgress, LiveProgress

    return LiveProgress() if sys.stderr.isatty() else LineProgress()


def _print_plan(ctx: click.Context, spec: RunSpec, *, as_json: bool) -> None:
    """Print every value and where it came from; the data and the model are looked at, nothing is written."""
    from pruneboard.experiment.prepare import prepare

    job, _ = prepare(spec)
    values = {
        name: (value, _source(ctx, name))
        for name, value in dataclasses.asdict(spec).items()
        if name not in {"overrides", "options"}
    }
    values["recipe"] = (job.recipe.name, _source(ctx, "recipe") if spec.recipe else f"default of {spec.dataset}")
    values["track"] = (job.track, _source(ctx, "track") if spec.track else "default of the method")
    values["init"] = (job.init, _source(ctx, "init") if spec.init else "default of the track")
    values["stem"] = (job.plan.stem, _source(ctx, "stem") if spec.stem else "rule")
    for name in RECIPE_FIELDS:
        values[name] = (
            getattr(job.recipe, name),
            _source(ctx, name) if name in spec.overrides else f"recipe {job.recipe.name}",
        )
    for name, value in job.base_record["method"]["options"].items():
        values[f"option {name}"] = (value, _source(ctx, "option") if name in spec.options else "default of the method")
    values["hash"] = (job.hash, "content")
    values["folder"] = (str(job.folder), "content")
    if as_json:
        click.echo(json.dumps({n: {"value": v, "source": s} for n, (v, s) in values.items()}, indent=2))
        return
    for name, (value, source) in values.items():
        click.echo(f"{name:24} {value!s:34} {source}")


def _source(ctx: click.Context, name: str) -> str:
    source = ctx.get_parameter_source(name)
    return SOURCES.get(source, "default") if source else "default"
