"""Builds the network of a plan with its initial weights, and hashes weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pruneboard import draws
from pruneboard.errors import UsageError
from pruneboard.models.names import weights_config
from pruneboard.models.planning import ModelPlan

SHOWN = 3
"""Number of keys listed in an error message."""


def build_model(plan: ModelPlan, *, init: str = "random", seed: int) -> nn.Module:
    """Build the network of `plan` on the CPU with its initial weights.

    Args:
        plan: the result of `plan_model`.
        init: `random` (timm's own initialization), `pretrained` (timm's weights; layers without pretrained weights,
            such as a classifier for other classes, are initialized randomly) or the path of a `.safetensors` file with
            all weights.
        seed: seed of the random initialization. The global random state does not change.

    Raises:
        UsageError: `init` does not exist, does not fit the network, or cannot be downloaded.
    """
    if init.endswith(".safetensors"):
        state = _read(Path(init))
        model = _create(plan, seed)
        _load(model, state, f"{init} and model {plan.load_as}")
        return model
    if init == "pretrained":
        return _pretrained(plan, seed)
    if init != "random":
        raise UsageError(f"init is random, pretrained or the path of a .safetensors file; found {init!r}")
    return _create(plan, seed)


def state_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, dtypes, shapes and values; independent of order, device and memory layout."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global CPU generator during the block, then restore it; `torch.manual_seed` would also seed GPUs."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(draws.key(seed, "init"))
        yield


def _create(plan: ModelPlan, seed: int, **options: Any) -> nn.Module:
    with _seeded(seed):
        return cast("nn.Module", timm.create_model(plan.load_as, **plan.create_args, **options))


def _pretrained(plan: ModelPlan, seed: int) -> nn.Module:
    config = weights_config(plan.load_as)
    if config is None or not config.has_weights:
        raise UsageError(f"no pretrained weights exist for {plan.load_as}: use --init random or a .safetensors file")
    _check_hub(plan.name, config)
    try:
        return _create(plan, seed, pretrained=True)
    except Exception as error:  # noqa: BLE001 - timm, the hub and its HTTP client have no common exception type
        raise UsageError(_not_fetched(plan.name, error)) from None


def _check_hub(name: str, config: Any) -> None:
    """Send one short request to the Hugging Face hub, and raise if it cannot be reached.

    The hub's own client retries a failed request for most of a minute. If these weights are in the cache, no request is
    needed: the client then uses the cache without waiting.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    if not config.hf_hub_id:
        return
    repository, _, revision = config.hf_hub_id.partition("@")
    if (Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "snapshots").is_dir():
        return
    try:
        get_hf_file_metadata(hf_hub_url(repository, "config.json", revision=revision or None))
    except HfHubHTTPError:
        return  # the hub can be reached; timm reports any problem with these weights
    except Exception as error:  # noqa: BLE001 - the exception types depend on the client's HTTP library
        raise UsageError(_not_fetched(name, error)) from None


def _not_fetched(name: str, error: Exception) -> str:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return (
        f"cannot fetch the pretrained weights of {name} ({reason}): "
        "check the network, or save them as a .safetensors file and pass its path with --init"
    )


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return cast("dict[str, Tensor]", load_file(path))
    except OSError as error:
        raise UsageError(f"cannot read the initial weights {path}: {error.strerror or error}") from None
    except SafetensorError as error:
        raise UsageError(f"{path} is not a safetensors file: {error}") from None


def _load(model: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Copy `state` into `model`; all names and shapes must match."""
    expected = model.state_dict()
    differences = [
        *_first_of("missing", [name for name in expected if name not in state]),
        *_first_of("not in the model", [name for name in state if name not in expected]),
        *_first_of(
            "of another shape", [_shapes(n, state[n], t) for n, t in expected.items() if _other_shape(state.get(n), t)]
        ),
    ]
    if differences:
        raise UsageError(f"{where} differ: {'; '.join(differences)}")
    model.load_state_dict(state, strict=True)


def _other_shape(found: Tensor | None, wanted: Tensor) -> bool:
    return found is not None and found.shape != wanted.shape


def _shapes(name: str, found: Tensor, wanted: Tensor) -> str:
    return f"{name} {list(found.shape)} in the file, {list(wanted.shape)} in the model"


def _first_of(what: str, found: list[str]) -> list[str]:
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return [f"{what}: {', '.join(found[:SHOWN])}{more}"] if found else []
