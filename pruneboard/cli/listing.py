"""`pruneboard list`: what can be named on the command line."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import click
from rich import box
from rich.table import Table
from rich.text import Text

from pruneboard import registry, spec
from pruneboard.report import render

KINDS = ("methods", "recipes", "datasets", "models")
DATASETS = {
    "digits": "8x8 digits of UCI (scikit-learn's) shown at 32 px; embedded, needs no network",
    "cifar10": "torchvision's CIFAR-10, from --data-dir, or fetched with --download",
    "cifar100": "torchvision's CIFAR-100, likewise",
    "folder": "any train/<class>/*, test/<class>/* (or val/) tree under --data-dir",
    "imagenet": "train/<class>/*, val/<class>/* under --data-dir, streamed through timm's transforms",
}


@click.command("list")
@click.argument("kind", type=click.Choice(KINDS), default="methods")
@click.argument("pattern", default="*")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def command(kind: str, pattern: str, *, as_json: bool) -> None:
    """List methods (the default), recipes, datasets or models.

    PATTERN filters names, as in `pruneboard list models 'resnet*'`. Listing methods imports none of them.
    """
    rows = _ROWS[kind](pattern)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=box.SIMPLE_HEAD)
    for column in rows[0] if rows else ["nothing found"]:
        table.add_column(column)
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    click.echo(render(table))


def _methods(pattern: str) -> list[dict[str, Any]]:
    found = registry.installed()
    names = Counter(info.name for info in found)
    return [
        {
            "method": info.name,
            "distribution": info.distribution,
            "version": info.version,
            "object": info.target,
            "note": "claimed twice: uninstall one" if names[info.name] > 1 else "",
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
