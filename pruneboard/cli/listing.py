"""`pruneboard list`: list the methods, recipes, data sets and models that can be used on the command line."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import click
from rich import box
from rich.table import Table
from rich.text import Text

from pruneboard import registry, spec
from pruneboard.errors import ConformanceError, UsageError
from pruneboard.report import printable, render

KINDS = ("methods", "recipes", "datasets", "models")
DATASETS = {
    "digits": "8x8 digits of UCI (as in scikit-learn), scaled to 32 px; embedded, needs no network",
    "cifar10": "torchvision's CIFAR-10, from --data-dir, or downloaded with --download",
    "cifar100": "torchvision's CIFAR-100, from --data-dir, or downloaded with --download",
    "folder": "any folder --data-dir with train/<class>/* and test/<class>/* (or val/), or Tiny-ImageNet as downloaded",
    "imagenet": "a folder --data-dir with train/<class>/* and val/<class>/*, streamed through timm's transforms",
}


@click.command("list")
@click.argument("kind", type=click.Choice(KINDS), default="methods")
@click.argument("pattern", default="*")
@click.option("--check", is_flag=True, help="Import every method, and exit with 3 if one cannot be used.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(kind: str, pattern: str, *, check: bool, as_json: bool) -> None:
    """List methods (the default), recipes, datasets or models.

    PATTERN filters names, as in `pruneboard list models 'resnet*'`. Methods are imported only with --check.
    """
    if check and kind != "methods":
        raise UsageError(f"--check applies to methods only; leave it out to list {kind}")
    rows = _ROWS[kind](pattern)
    problems = _check(rows) if check else []
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        _print(rows, problems)
    if problems:
        count = sum(bool(row["problem"]) for row in rows)
        raise ConformanceError(f"{count} of {len(rows)} methods cannot be used; the lines above say why and what to do")


def _check(rows: list[dict[str, Any]]) -> list[str]:
    """Set the `problem` of every method in `rows` (None if it can be used), and return the distinct problems."""
    for row in rows:
        info = registry.PrunerInfo(row["method"], row["distribution"], row["version"], row["object"])
        row["problem"] = registry.problem(info)
        if row["problem"]:
            row["note"] = row["note"] or "cannot be used"
    return list(dict.fromkeys(row["problem"] for row in rows if row["problem"]))


def _print(rows: list[dict[str, Any]], problems: list[str]) -> None:
    columns = [name for name in rows[0] if name != "problem"] if rows else ["nothing found"]
    table = Table(*columns, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*(Text(printable(row[name], 1000)) for name in columns))
    click.echo(render(table))
    for problem in problems:
        click.echo(printable(problem, 1000))


def _methods(pattern: str) -> list[dict[str, Any]]:
    found = registry.installed()
    names = Counter(info.name for info in found)
    return [
        {
            "method": info.name,
            "distribution": info.distribution,
            "version": info.version,
            "object": info.target,
            "note": "claimed twice: uninstall one" if names[info.name] > 1 else info.name_problem or "",
        }
        for info in found
        if _matches(info.name, pattern)
    ]


def _recipes(pattern: str) -> list[dict[str, Any]]:
    recipes = [spec.load_recipe(name) for name in spec.recipe_names()]
    return [
        {
            "recipe": recipe.name,
            "epochs": recipe.epochs,
            "batch": recipe.batch_size,
            "lr": recipe.lr,
            "image size": recipe.image_size,
            "default for": ", ".join(recipe.default_for),
        }
        for recipe in recipes
        if _matches(recipe.name, pattern)
    ]


def _datasets(pattern: str) -> list[dict[str, Any]]:
    return [{"data set": name, "what": what} for name, what in DATASETS.items() if _matches(name, pattern)]


def _models(pattern: str) -> list[dict[str, Any]]:
    from pruneboard.models import model_names

    return [{"model": name} for name in model_names() if _matches(name, pattern)]


def _matches(name: str, pattern: str) -> bool:
    from fnmatch import fnmatchcase

    return fnmatchcase(name, pattern)


_ROWS = {"methods": _methods, "recipes": _recipes, "datasets": _datasets, "models": _models}
