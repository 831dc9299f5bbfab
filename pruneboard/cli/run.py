"""`pruneboard run`: train, prune, evaluate and record."""

from __future__ import annotations

import dataclasses
import json
import logging
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from pruneboard import registry
from pruneboard.cli import flags
from pruneboard.cli.progress import listener, shown
from pruneboard.coerce import read_toml
from pruneboard.errors import RunError, UnknownNameError, UsageError, on_one_line
from pruneboard.processes import interrupts, memory, phases
from pruneboard.processes.world import World
from pruneboard.spec import (
    MAX_SEEDS,
    RECIPE_FIELDS,
    Recipe,
    RunSpec,
    check_sparsity,
    default_recipe,
    load_recipe,
    recipe_names,
)

if TYPE_CHECKING:
    from pruneboard.training.state import Listener

SOURCES = {
    ParameterSource.COMMANDLINE: "flag",
    ParameterSource.DEFAULT_MAP: "config",
    ParameterSource.ENVIRONMENT: "environment",
}


def recipe_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add one flag per recipe field; its help is the description of the field in the docstring of `Recipe`."""
    described = _attribute_help(Recipe.__doc__ or "")
    for name, kind in reversed(RECIPE_FIELDS.items()):
        flag = "--" + name.replace("_", "-")
        declaration = f"{flag}/--no-{flag[2:]}" if kind is bool else flag
        option = click.option(declaration, name, type=kind, default=None, help=f"Recipe: {described[name]}")
        function = option(function)
    return function


def _attribute_help(docstring: str) -> dict[str, str]:
    """Parse the `Attributes:` section of a Google docstring into name -> description."""
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
    """Use a TOML file as the defaults of all flags; a key that is not a flag is an error."""
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
    help="An installed pruner, as shown by `pruneboard list`.",
)
@click.option(
    "--model",
    required=True,
    help="Any timm classifier, or resnet8_cifar, resnet20_cifar, resnet32_cifar, vgg19_cifar.",
)
@click.option("--sparsity", "-s", metavar="FRACTION", help="Fraction of zeros among the prunable weights, in [0, 1).")
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
@click.option("--data-dir", type=click.Path(), help="Folder of the data set.")
@click.option("--download", is_flag=True, help="Download cifar10 or cifar100 into --data-dir if it is missing there.")
@click.option(
    "--limit-train",
    type=int,
    metavar="N",
    help="Use only N training images: the first of each class, equally many of each as far as there are enough.",
)
@click.option(
    "--check-images",
    is_flag=True,
    help="Decode every image file before training. By default, only the headers of streamed images are checked.",
)
@click.option(
    "--recipe",
    shell_complete=flags.complete(recipe_names),
    help="Training recipe: a name or the path of a .toml file; by default the recipe of the data set.",
)
@recipe_options
@click.option(
    "--init",
    help="random (default), pretrained (timm's, downloaded) or FILE.safetensors; on the supermask track "
    "signed-constant (default) or kaiming-normal; with -scaled, fan-in is multiplied by the share kept.",
)
@click.option("--ablation", help="Supermask track: evaluate a control instead, shuffled-mask or redrawn-weights.")
@click.option("--stem", type=str, help="stock or small; by default small for real images of 64 px and below.")
@click.option("--seed", type=int, default=0, show_default=True, help="All random numbers of the run derive from it.")
@click.option("--seeds", metavar="N|A,B,...", help="Seeds of several runs: 6 means 0 to 5, 3,7 is a list.")
@click.option(
    "--tuning-trials",
    type=int,
    metavar="N",
    default=0,
    show_default=True,
    help="Number of option sets tried for this method on this data before choosing these; recorded.",
)
@click.option("--tuning-source", metavar="TEXT", help="Source of the options, such as a paper or a search; recorded.")
@click.option("--precision", default="fp32", show_default=True, help="fp32, or bf16 (autocast).")
@click.option("--zero", type=int, default=0, show_default=True, help="DeepSpeed ZeRO stage: 0, 1 or 2.")
@click.option(
    "--compile",
    is_flag=True,
    help="Use torch.compile for the training passes: the same steps up to rounding, after minutes of compilation. "
    "Meant for long runs; can be slower on a CPU.",
)
@click.option("--procs", type=int, default=1, show_default=True, help="Processes on this machine.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option(
    "--checkpoint-every",
    type=int,
    metavar="N",
    default=1000,
    show_default=True,
    help="Steps between checkpoints, in addition to one at the end of every epoch; 0 for only those.",
)
@click.option(
    "--results", type=click.Path(), default="results", show_default=True, help="Results folder: one folder per run."
)
@click.option(
    "--force",
    is_flag=True,
    help="Start again even if the run is finished (its record moves to superseded/) or can be resumed.",
)
@click.option("--tensorboard", is_flag=True, help="Write TensorBoard event files to the run's folder.")
@click.option("--dry-run", is_flag=True, help="Print every value of the run and its source, and exit.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document; progress goes to standard error.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress, only the summary.")
@click.option(
    "--config",
    type=click.Path(),
    is_eager=True,
    callback=_read_config,
    expose_value=False,
    help="TOML file with defaults for these flags; its table [options] has the options of the method.",
)
@click.pass_context
def command(
    ctx: click.Context, /, *, dry_run: bool, as_json: bool, quiet: bool, seed: int, seeds: str | None, **given: Any
) -> int:
    """Train with a pruner, and record the result.

    \b
    pruneboard run --method probmask --model resnet18 --sparsity 0.9
    pruneboard run --method magnitude --model resnet20_cifar --dataset folder --data-dir DIR --sparsity 0.95

    A finished run with the same method version, options, data and training is not repeated.
    An interrupted run resumes from its last checkpoint, with any number of processes.
    """
    specs = [build_spec(given, number) for number in seed_list(seeds, seed)]
    for spec in specs[:1]:
        registry.find(spec.method)
    if dry_run:
        _print_plan(ctx, specs[0], as_json=as_json, quiet=quiet)
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
    options = flags.parse_options(values.pop("option"))
    if values["sparsity"] is not None:
        values["sparsity"] = check_sparsity(values["sparsity"])
    spec = RunSpec(
        **values, options=options, seed=seed, overrides={k: v for k, v in overrides.items() if v is not None}
    )
    load_recipe(spec.recipe or default_recipe_of(spec.dataset), spec.overrides)  # refused before torch is imported
    return spec


def default_recipe_of(dataset: str) -> str:
    """Return the default recipe of a data set, or raise an error if there is no such data set."""
    known = [name for recipe in recipe_names() for name in load_recipe(recipe).default_for]
    if dataset not in known:
        raise UnknownNameError("data set", dataset, known)
    return default_recipe(dataset)


def seed_list(seeds: str | None, seed: int) -> list[int]:
    """Return the seeds: with `--seeds 6` 0 to 5, with `--seeds 3,7` 3 and 7, else the one of `--seed`."""
    if seeds is None:
        return [seed]
    try:
        numbers = [int(part) for part in seeds.split(",")]
    except ValueError:
        raise UsageError(f"--seeds is a count such as 6 or a list such as 3,7; found {seeds!r}") from None
    if "," in seeds:
        return numbers
    if not 1 <= numbers[0] <= MAX_SEEDS:
        raise UsageError(f"--seeds is a count from 1 to {MAX_SEEDS}; found {seeds}")
    return list(range(numbers[0]))


def _run_all(specs: list[RunSpec], *, as_json: bool, quiet: bool) -> int:
    """Run every seed, even after a failed one, and return the exit code. Only the first process prints."""
    is_main = World.current().is_main
    quiet = quiet or not is_main
    with shown(quiet=quiet):
        phases.report("loading torch")
        from pruneboard.experiment import listeners
        from pruneboard.processes import rendezvous

    memory.keep_freed_memory()
    records: list[dict[str, Any] | None] = []
    code = 0
    notes = _NotePrinter()
    for spec in [spec.with_absolute_paths() for spec in specs]:
        try:
            with listeners.notes_to(notes):
                record = _run_one(spec, None if quiet else listener())
        except RunError as error:  # every process reports its own error
            click.echo(f"error: {_which(spec, specs)}{on_one_line(error)}", err=True)
            code = error.exit_code
            records.append(error.record)
            if rendezvous.is_broken():
                break
            continue
        records.append(record)
        if is_main and not as_json:
            _print_summary(record)
    if is_main and as_json:
        click.echo(json.dumps(records if len(specs) > 1 else records[0], indent=2, sort_keys=True))
    return code


def _run_one(spec: RunSpec, observer: Listener | None) -> dict[str, Any]:
    from pruneboard.experiment import lifecycle

    try:
        return lifecycle.run(spec, observer)
    finally:
        if observer is not None:
            observer.on_end()


class _NotePrinter(logging.Handler):
    """Prints each note once on standard error, not again for every seed."""

    def __init__(self) -> None:
        super().__init__()
        self._printed: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Print the note."""
        note = record.getMessage()
        if note not in self._printed:
            self._printed.add(note)
            click.echo(note, err=True)


def _which(spec: RunSpec, specs: list[RunSpec]) -> str:
    return f"seed {spec.seed}: " if len(specs) > 1 else ""


def _print_summary(record: dict[str, Any]) -> None:
    from pruneboard.report import render, summary

    click.echo(render(summary(record)))


def _print_plan(ctx: click.Context, spec: RunSpec, *, as_json: bool, quiet: bool) -> None:
    """Print every value and its source. Reads the data and builds the model, but writes nothing."""
    with shown(quiet=quiet):
        phases.report("loading torch")
        from pruneboard.experiment.prepare import prepare

        job, dataset = prepare(spec)
    for note in dataset.notes:
        click.echo(f"note: {note}", err=True)
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
