"""The part of a record that is known before training: the content hash, what it covers, and the board's fields."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pruneboard import registry
from pruneboard.api import Pruner, Traits
from pruneboard.data import Dataset, steps_per_epoch
from pruneboard.errors import UsageError
from pruneboard.models import ModelPlan
from pruneboard.records import fields, schema
from pruneboard.spec import RULES_VERSION, Recipe, RunSpec

SCOPE = "all"
"""Prunable weights: those of every Conv2d and Linear layer, including the first and the last."""

Block = dict[str, Any]


@dataclass(frozen=True)
class RunIdentity:
    """A spec with everything resolved; `blocks` lays it out as blocks of a record."""

    spec: RunSpec
    track: str
    recipe: Recipe
    info: registry.PrunerInfo
    pruner: Pruner[Any]
    traits: Traits
    init: str
    seeds: Mapping[str, int]
    dataset: Dataset
    plan: ModelPlan

    def blocks(self) -> Block:
        """Return the record's blocks that do not depend on how the run ends, including the content hash."""
        return {
            "schema": fields.SCHEMA,
            "rules": RULES_VERSION,
            "hash": schema.content_hash(self._hashed()),
            "track": self.track,
            "method": {**self._method, "traits": dataclasses.asdict(self.traits)},
            "model": self._model,
            "data": {**self._data, **self._left_out, "majority": majority_share(self.dataset)},
            "recipe": {"name": self.recipe.name, **self._training},
            "seed": self.spec.seed,
            "seeds": dict(self.seeds),
            "sparsity": {"target": self.spec.sparsity},
            "tuning": {"trials": self.spec.tuning_trials, "source": self.spec.tuning_source},
            "board": self._board(),
        }

    def _hashed(self) -> Block:
        """Return exactly what decides the result; the content hash is computed over it.

        Processes, ZeRO stage, device, compilation and paths are left out: they change how a run is computed.
        """
        return {
            "rules": RULES_VERSION,
            "track": self.track,
            "scope": SCOPE,
            "method": {**self._method, "sparsity": self.pruner.sparsity},
            "model": self._model,
            "data": self._data,
            "recipe": self._training,
            "seed": self.spec.seed,
            "precision": self.spec.precision,
        }

    def _board(self) -> Block:
        """Return the fields that two rows must share to be compared in one table."""
        return {
            "rules": RULES_VERSION,
            "track": self.track,
            "model": self.plan.load_as,
            "stem": self.plan.stem,
            "create_args": self.plan.create_args,
            "init": self._model["init"],
            "data": self.dataset.name,
            "data_sha256": self.dataset.sha256,
            "limit_train": self.spec.limit_train,
            "recipe": self._training,
            "steps": self.recipe.epochs * steps_per_epoch(self.dataset, self.recipe.batch_size),
            "global_batch": self.recipe.batch_size,
            "norm_batch": self.recipe.micro_batch if self.plan.batch_statistics else None,
            "precision": self.spec.precision,
            "scope": SCOPE,
            "torch": ".".join(torch.__version__.split(".")[:2]),
        }

    @cached_property
    def _training(self) -> Block:
        return {k: v for k, v in dataclasses.asdict(self.recipe).items() if k not in {"name", "default_for"}}

    @cached_property
    def _method(self) -> Block:
        options = {name: getattr(self.pruner, name) for name in registry.option_types(type(self.pruner))}
        origin = {"name": self.info.name, "distribution": self.info.distribution, "version": self.info.version}
        return {**origin, "options": options, "ablation": self.spec.ablation}

    @cached_property
    def _model(self) -> Block:
        plan = self.plan
        network = {"name": self.spec.model, "load_as": plan.load_as, "create_args": plan.create_args}
        return {**network, "stem": plan.stem, "init": init_identity(self.init)}

    @cached_property
    def _data(self) -> Block:
        dataset = self.dataset
        return {
            "name": dataset.name,
            "classes": len(dataset.classes),
            "image_size": dataset.image_size,
            "train": len(dataset.train),
            "validation": len(dataset.validation),
            "test": len(dataset.test),
            "sha256": dataset.sha256,
            "split_sha256": dataset.split_sha256,
            "augment": self.recipe.augment,
            "mean": list(dataset.mean),
            "std": list(dataset.std),
            "limit_train": self.spec.limit_train,
        }

    @property
    def _left_out(self) -> Block:
        """Return the field about files beside the images, for data sets that have some; it decides no result."""
        return {"left_out": dict(self.dataset.left_out)} if self.dataset.left_out else {}


def majority_share(dataset: Dataset) -> float:
    """Return the share of the test images that are in the most frequent class: the top-1 of a constant answer."""
    return int(torch.bincount(dataset.test.labels).max()) / len(dataset.test)


def init_identity(init: str) -> str:
    """Return the identity of the initial weights: the init rule, or for a file its SHA-256 (never its path)."""
    if not init.endswith(".safetensors"):
        return init
    try:
        return f"safetensors:{hashlib.sha256(Path(init).read_bytes()).hexdigest()}"
    except OSError as error:
        raise UsageError(f"cannot read the initial weights {init}: {error.strerror}") from None
