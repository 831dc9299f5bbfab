"""Builds the network of a plan with its initial weights, and hashes weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

from pruneboard import draws
from pruneboard.errors import UsageError
from pruneboard.models.names import weights_config
from pruneboard.models.planning import ModelPlan
from pruneboard.models.weights_file import SHOWN, Misfit, count_tensors, few, find_misfit, not_finite, read_weights

_checked: set[tuple[object, ...]] = set()
"""Networks and files that `check_init` found to fit; a board checks the same file for every run."""


def build_model(plan: ModelPlan, *, init: str = "random", seed: int) -> nn.Module:
    """Build the network of `plan` on the CPU with its initial weights.

    Args:
        plan: the result of `plan_model`.
        init: `random` (timm's own initialization), `pretrained` (timm's weights; layers without pretrained weights,
            such as a classifier for other classes, are initialized randomly) or the path of a `.safetensors` file with
            all weights.
        seed: seed of the random initialization. The global random state does not change.

    Raises:
        UsageError: `init` does not exist, does not fit the network, is not finite, or cannot be downloaded.
    """
    if init.endswith(".safetensors"):
        model = _create(plan, seed)
        _load(model, read_weights(Path(init)), f"the initial weights {init} do not fit model {plan.load_as}")
    elif init == "pretrained":
        model = _pretrained(plan, seed)
    elif init == "random":
        return _create(plan, seed)
    else:
        raise UsageError(f"init is random, pretrained or the path of a .safetensors file; found {init!r}")
    _check_finite(model, f"the pretrained weights of {plan.name}" if init == "pretrained" else init)
    return model


def check_init(plan: ModelPlan, init: str, alternatives: Callable[[], Mapping[str, ModelPlan]] = dict) -> None:
    """Check that the initial weights exist and fit the network of `plan`, and that those of a file are finite.

    Pretrained weights are not downloaded: whether they are finite is known when `build_model` has loaded them.

    Args:
        plan: the result of `plan_model`.
        init: as in `build_model`.
        alternatives: returns flag -> plan of the network with this flag; a flag with which a file would fit is named in
            the message.

    Raises:
        UsageError: the weights do not exist, do not fit or are not finite.
    """
    if init == "pretrained":
        _weights_config(plan)
        return
    if init == "random" or (key := _file_key(plan, init)) in _checked:
        return
    try:
        build_model(plan, init=init, seed=0)
    except _MisfitError as error:
        raise UsageError(f"{error}: {_remedy(error.misfit, plan, read_weights(Path(init)), alternatives())}") from None
    _checked.add(key)


def _file_key(plan: ModelPlan, init: str) -> tuple[object, ...]:
    try:
        found = Path(init).stat()
    except OSError:
        return ()
    return plan.load_as, json.dumps(plan.create_args, sort_keys=True), init, found.st_mtime_ns, found.st_size


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


def _weights_config(plan: ModelPlan) -> Any:
    config = weights_config(plan.load_as)
    if config is None or not config.has_weights:
        raise UsageError(f"no pretrained weights exist for {plan.load_as}: use --init random or a .safetensors file")
    return config


def _pretrained(plan: ModelPlan, seed: int) -> nn.Module:
    config = _weights_config(plan)
    _check_hub(plan.name, config)
    try:
        return _create(plan, seed, pretrained=True)
    except Exception as error:  # noqa: BLE001 - timm, the hub and its HTTP client have no common exception type
        if isinstance(error, RuntimeError) and "state_dict" in str(error):  # raised by `load_state_dict`
            raise UsageError(_unfit_pretrained(plan, config, str(error))) from None
        raise UsageError(_not_fetched(plan.name, error)) from None


def _unfit_pretrained(plan: ModelPlan, config: Any, problems: str) -> str:
    """Return the message for pretrained weights that torch refuses: one problem per line, after a heading."""
    lines = [line.strip().rstrip(". ") for line in problems.splitlines()[1:] if line.strip()]
    found = "; ".join(lines[:SHOWN]) + (f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else "")
    flags = f"--image-size {config.input_size[-1]}, at which they were trained"
    flags = f"--stem stock or {flags}" if plan.stem == "small" else flags
    return f"the pretrained weights of {plan.name} do not fit the network ({found}): use {flags}, or --init random"


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


class _MisfitError(UsageError):
    """A file with initial weights that does not fit."""

    def __init__(self, where: str, misfit: Misfit) -> None:
        super().__init__(f"{where}: {misfit}")
        self.misfit = misfit


def _load(model: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Copy `state` into `model`; all names and shapes must match."""
    misfit = find_misfit(model, state)
    if misfit.names:
        raise _MisfitError(where, misfit)
    model.load_state_dict(state, strict=True)


def _remedy(misfit: Misfit, plan: ModelPlan, state: dict[str, Tensor], others: Mapping[str, ModelPlan]) -> str:
    """Return what to do about a file that does not fit: another flag, a new classifier, or another network."""
    flags = {"": misfit, **{flag: find_misfit(_create(other, 0), state) for flag, other in others.items()}}
    flag = next((flag for flag, found in flags.items() if found.names <= found.head), None)
    if flag is None:
        return "choose the --model, --stem and --image-size that the file was saved with"
    if not flags[flag].names:
        return f"use {flag}"
    replace = f"replace its classifier by one for {plan.create_args['num_classes']} classes and save it again"
    config = weights_config(plan.load_as)
    known = config is not None and config.has_weights
    pretrained = ", or use --init pretrained, which does so with timm's weights" if known else ""
    return f"use {flag}, and {replace}" if flag else f"{replace}{pretrained}"


def _check_finite(model: nn.Module, where: str) -> None:
    wrong = not_finite(model.state_dict())
    if wrong:
        raise UsageError(
            f"{where} cannot be trained: {count_tensors(len(wrong))} with NaN or infinite values: {few(wrong)}; "
            "use other initial weights (--init)"
        )
