"""The only module that imports DeepSpeed: forward, backward, step, and writes that survive the next step.

By default parameters are float32 at ZeRO stage 0, where DeepSpeed equals plain PyTorch up to rounding. Stages 1 and 2
and bfloat16 autocast are options. Nothing here depends on the method.

ZeRO partitions. At stages 1 and 2 DeepSpeed concatenates all parameters of a group into one flat float32 tensor and
gives each process a contiguous part of it, its partition. The partitions are the master copy, which the optimizer
updates; a process's own partition is the only entry of `group["params"]`. Partition borders ignore parameter borders,
so a process may hold all, some or none of a parameter's elements (`_Partition`). After each step DeepSpeed gathers the
partitions and copies them into the module's parameters. So an in-place write to a module's parameter looks right until
the next step overwrites it from the master. Write with `Engine.assign`; `Engine.first_unassigned` finds other writes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from pruneboard.processes import rendezvous
from pruneboard.processes.world import World
from pruneboard.training.compiling import CompiledNetwork
from pruneboard.training.gates import cached_weights, gated_weights
from pruneboard.training.optim import GroupedOptimizer

if TYPE_CHECKING:
    from collections.abc import Iterator

_ONE_PROCESS = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "0",
}


def start_deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed, start its process group, and return the module.

    Needs no launcher, C++ compiler, ninja or MPI. Keeps DeepSpeed's log off standard output, which may carry JSON.
    """
    world = World.current()
    with _stdout_to_stderr(), rendezvous.detect_lost_peer():
        if "deepspeed" in sys.modules:
            _select_accelerator(device.type)
        rendezvous.join(world, cuda=device.type == "cuda")
        with _environment({"DS_ACCELERATOR": device.type}):  # if unset, DeepSpeed prints a warning on stdout
            import deepspeed

        _silence_logging()
        if device.type == "cpu":
            # `init_distributed` would compile this operator, which only inference uses, and fail without ninja.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        with _environment(_ONE_PROCESS if world.size == 1 else {}):
            deepspeed.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo", verbose=False)
        if world.size > 1:
            from deepspeed.utils import groups

            rendezvous.set_group_timeout(groups._get_data_parallel_group())  # gradients are reduced over this group
    return deepspeed


def _select_accelerator(kind: str) -> None:
    """Make DeepSpeed, which selects an accelerator when it is imported, use `cpu` or `cuda` from now on."""
    from deepspeed import accelerator

    if accelerator.get_accelerator().device_name() == kind:
        return
    shutdown()  # the process group belongs to the other kind of device
    if kind == "cuda":
        from deepspeed.accelerator.cuda_accelerator import CUDA_Accelerator as Accelerator
    else:
        from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator as Accelerator
    accelerator.set_accelerator(Accelerator())


def shutdown() -> None:
    """Destroy the process group; a later run in this process starts a new one, possibly of another size."""
    from deepspeed import comm

    if comm.is_initialized():
        comm.destroy_process_group()
    rendezvous.reset()


class Engine:
    """A model under DeepSpeed. Trains all parameters that require gradients, with one rule per parameter group.

    Attributes:
        model: the network with gates attached; the object that was passed in.
        rank, world: rank of this process, and number of processes.
        device: device of this process.
        groups: the optimizer's parameter groups; set `lr` there before each step.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[dict[str, Any]],
        *,
        device: torch.device,
        micro_batch: int,
        clip: float,
        zero: int,
        precision: str,
        compiled: CompiledNetwork | None = None,
    ) -> None:
        """Hand `model` to `deepspeed.initialize`.

        Args:
            model: network with float32 parameters, none of them 0-dimensional.
            groups: as built by `pruneboard.training.optim.parameter_groups`; empty if nothing is trained.
            device: device of this process.
            micro_batch: images per forward pass on this process.
            clip: maximum joint gradient norm of all trained parameters; 0 turns clipping off.
            zero: stage 0, 1 or 2.
            precision: `fp32`, or `bf16` for autocast.
            compiled: compiled version of `model`, to be called in its place.
        """
        deepspeed = start_deepspeed(device)
        self.model = model.to(device)
        self._compiled = compiled
        self._gated_weights = gated_weights(self.model)
        self.device = device
        self._comm = deepspeed.comm
        zero = zero if groups else 0  # without trained parameters there is nothing to partition
        self._zero = zero
        self._trains = bool(groups)
        # Recorded now, because ZeRO replaces the parameters in each group by one flat partition.
        self._group_of = {id(parameter): index for index, group in enumerate(groups) for parameter in group["params"]}
        optimizer = GroupedOptimizer(groups or [_untrained_group(device)])
        with _stdout_to_stderr(), rendezvous.detect_lost_peer(), _environment(_world_of(device)):
            self._engine, self._optimizer, _, _ = deepspeed.initialize(
                model=compiled or self.model,
                optimizer=optimizer,
                config=_config(micro_batch, clip, zero, precision),
            )
        _silence_logging()
        self._base_optimizer = optimizer
        self.rank: int = self._comm.get_rank()
        self.world: int = self._comm.get_world_size()
        if self.world == 1 and zero == 0:
            # With one process there is nothing to reduce, but DeepSpeed would still flatten every gradient, which takes
            # 15 to 20 % of a step.
            self._engine.enable_backward_allreduce = False

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The optimizer's parameter groups, at every ZeRO stage."""
        return self._optimizer.param_groups  # type: ignore[no-any-return]

    @property
    def optimizers(self) -> tuple[Any, ...]:
        """Our optimizer, and DeepSpeed's around it."""
        return self._base_optimizer, self._optimizer

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [batch, classes] in float32. Every gate is evaluated exactly once."""
        with cached_weights(self._gated_weights):
            return self._engine(images).float()  # type: ignore[no-any-return]

    @rendezvous.detect_lost_peer()
    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Accumulate the gradients of `loss`; the last call of a step passes `last` and reduces them over processes."""
        if not loss.requires_grad:  # nothing is trained, and the method uses no gradient
            return
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss)

    @rendezvous.detect_lost_peer()
    def step(self) -> None:
        """Clip the gradients, take an optimizer step, and clear the gradients."""
        if self._trains:
            self._engine.step()

    @torch.no_grad()
    def assign(self, parameter: nn.Parameter, new: Tensor) -> None:
        """Set `parameter` to `new` such that the next optimizer step starts from it.

        Call it on every process with the same values.
        """
        # Both copies are written. `safe_set_full_fp32_param` writes this process's part of the master copy; without it
        # the next step undoes the write. At stage 0 there is no master, and it would silently do nothing. Without
        # `copy_` the module would compute with the old values until the next step.
        if self._zero:
            from deepspeed.utils import safe_set_full_fp32_param

            safe_set_full_fp32_param(parameter, new.contiguous())
        parameter.copy_(new)

    @torch.no_grad()
    def reset_optimizer_state(self, parameter: nn.Parameter, mask: Tensor) -> None:
        """Set the optimizer's per-element state of `parameter` (momentum) to 0 where `mask` is true."""
        if not self._zero:
            for value in self._base_optimizer.state.get(parameter, {}).values():
                if value.shape == parameter.shape:
                    value.masked_fill_(mask, 0)
            return
        for value in self._flat_state(parameter).values():
            if value.dim() and (part := self._part(parameter, value)):
                part.values.masked_fill_(mask.reshape(-1)[part.positions], 0)

    @torch.no_grad()
    def optimizer_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Return the optimizer's tensors for `parameter`: per-element ones in its shape, and 0-dimensional ones.

        Collective at ZeRO stages 1 and 2. The result is the same at every stage and for every number of processes.
        """
        if not self._zero:
            return dict(self._base_optimizer.state.get(parameter, {}))
        found = {}
        for name, value in self._flat_state(parameter).items():
            whole = value.clone()  # 0-dimensional (Adam's step count): one per group, here returned per parameter
            # Each process writes its own elements into a tensor of zeros; the sum over processes is the whole.
            if value.dim():
                whole = torch.zeros(parameter.numel(), dtype=value.dtype, device=value.device)
                if part := self._part(parameter, value):
                    whole[part.positions] = part.values
                whole = self.sum(whole).reshape(parameter.shape)
            found[name] = whole
        return found

    @torch.no_grad()
    def load_optimizer_state(self, parameter: nn.Parameter, state: Mapping[str, Tensor]) -> None:
        """Restore what `optimizer_state` returned, possibly at another stage or number of processes."""
        state = {name: value.to(self.device, copy=True) for name, value in state.items()}
        if not self._zero:
            self._base_optimizer.state[parameter] = state
            return
        flat = self._flat_state(parameter)
        for name, value in state.items():
            if not value.dim():
                flat[name] = value
                continue
            flat.setdefault(name, torch.zeros_like(self._flat(parameter)))
            if part := self._part(parameter, flat[name]):
                part.values.copy_(value.reshape(-1)[part.positions])

    def _flat(self, parameter: nn.Parameter) -> Tensor:
        """Return this process's partition of the group that contains `parameter`: a flat float32 tensor."""
        (flat,) = self._base_optimizer.param_groups[self._group_of[id(parameter)]]["params"]
        return flat  # type: ignore[no-any-return]

    def _flat_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self._base_optimizer.state[self._flat(parameter)]
        return state

    def _part(self, parameter: nn.Parameter, flat: Tensor) -> _Partition | None:
        """Return the part of `parameter` that lies in this process's partition `flat`; None if there is none.

        `flat` is the master copy, or an optimizer tensor of the same layout.
        """
        fragment = parameter._hp_mapping  # type: ignore[attr-defined]
        if fragment is None:
            return None
        inside, at = fragment.lp_fragment_address, fragment.hp_fragment_address  # in the parameter; in the partition
        return _Partition(slice(inside.start, inside.start + inside.numel), flat[at.start : at.start + at.numel])

    @rendezvous.detect_lost_peer()
    def sum(self, values: Tensor) -> Tensor:
        """Return `values` summed over all processes."""
        total = values.to(self.device).clone()
        if self.world > 1:
            self._comm.all_reduce(total)
        return total

    @rendezvous.detect_lost_peer()
    def average_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over all processes, in place."""
        if self.world == 1:
            return
        for tensor in tensors:
            self._comm.all_reduce(tensor)
            tensor.div_(self.world)

    @rendezvous.detect_lost_peer()
    def broadcast(self, tensor: Tensor) -> Tensor:
        """Overwrite `tensor`, which must be contiguous and on the device, with rank 0's values, and return it."""
        if self.world > 1:
            self._comm.broadcast(tensor, src=0)
        return tensor

    @rendezvous.detect_lost_peer()
    def gather(self, tensor: Tensor) -> Tensor:
        """Return every process's `tensor`, stacked by rank: [world, ...]."""
        parts = [tensor]
        if self.world > 1:
            parts = [torch.empty_like(tensor) for _ in range(self.world)]
            self._comm.all_gather(parts, tensor)
        return torch.stack(parts)

    @rendezvous.detect_lost_peer()
    def maximum(self, number: int) -> int:
        """Return the largest `number` over all processes."""
        if self.world == 1:
            return number
        found = torch.tensor([number], device=self.device)
        self._comm.all_reduce(found, op=self._comm.ReduceOp.MAX)
        return int(found)

    @rendezvous.detect_lost_peer()
    def first_difference(self, tensors: Mapping[str, Tensor]) -> str | None:
        """Return the name of the first tensor whose bits differ between processes, or None.

        Compares hashes. Sums would not do: masks with equal counts at different positions have equal sums.
        """
        if self.world == 1 or not tensors:
            return None
        hashes = torch.tensor([_hash(tensor) for tensor in tensors.values()], device=self.device)
        low, high = hashes.clone(), hashes.clone()
        self._comm.all_reduce(low, op=self._comm.ReduceOp.MIN)
        self._comm.all_reduce(high, op=self._comm.ReduceOp.MAX)
        return next((name for name, same in zip(tensors, (low == high).tolist(), strict=True) if not same), None)

    def first_unassigned(self, parameters: Mapping[str, nn.Parameter]) -> str | None:
        """Return the name of the first parameter whose module copy differs from its master copy, or None.

        The two are equal after each optimizer step and after `assign`, so a difference is an in-place write, which
        the next step would undo. Each process compares the elements in its own partition.
        """
        if not self._zero:
            return None
        trained = {name: p for name, p in parameters.items() if id(p) in self._group_of}
        differs = torch.tensor([self._differs_from_master(p) for p in trained.values()], device=self.device)
        return next((name for name, count in zip(trained, self.sum(differs).tolist(), strict=True) if count), None)

    def _differs_from_master(self, parameter: nn.Parameter) -> bool:
        flat = self._flat(parameter).detach()
        part = self._part(parameter, flat)
        return part is not None and not torch.equal(part.values, parameter.detach().reshape(-1)[part.positions])

    def close(self) -> None:
        """Release what DeepSpeed holds of the model, and compiled graphs."""
        self._engine.destroy()
        if self._compiled is not None:
            self._compiled.close()


class _Partition(NamedTuple):
    """The elements of one parameter in this process's ZeRO partition.

    Attributes:
        positions: which elements, in the flattened (row-major) parameter.
        values: view of these elements in the partition.
    """

    positions: slice
    values: Tensor


def _world_of(device: torch.device) -> dict[str, str]:
    """Return the environment variables from which DeepSpeed reads ranks and, from LOCAL_RANK, the GPU."""
    variables = _ONE_PROCESS if World.current().size == 1 else {}
    return variables if device.index is None else variables | {"LOCAL_RANK": str(device.index)}


def _untrained_group(device: torch.device) -> dict[str, Any]:
    """Return a group with one number that is in no model, because DeepSpeed requires something to optimize."""
    return {"name": "nothing", "params": [nn.Parameter(torch.zeros(1, device=device))], "rule": "sgd"} | {
        "lr": 0.0,
        "peak_lr": 0.0,
        "weight_decay": 0.0,
    }


def _config(micro_batch: int, clip: float, zero: int, precision: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": 1,  # the loop says which backward pass is the last: the number per step changes
        "gradient_clipping": clip,  # always written: DeepSpeed clips at 1.0 by default
        "zero_optimization": {"stage": zero},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": None,
        "wall_clock_breakdown": False,
        "timers": {"throughput": {"enabled": False}},  # it would synchronize the device twice per step
    }
    if precision == "bf16":
        # The empty list makes DeepSpeed reduce every gradient in float32. Its default reduces in bfloat16 those of
        # plain Conv2d and Linear, and not those of subclasses, so methods would be trained differently.
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    return config


def _hash(tensor: Tensor) -> int:
    """Return a 63-bit hash of the bytes of the values in row-major order."""
    raw = tensor.detach().reshape(-1).contiguous().cpu().view(torch.uint8)
    return int.from_bytes(hashlib.blake2b(raw.numpy().data, digest_size=8).digest(), "big") >> 1


def _silence_logging() -> None:
    for name in ("DeepSpeed", "torch.distributed"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.ERROR)
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
                handler.setStream(sys.stderr)


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Redirect what libraries print while they start to standard error."""
    sys.stdout.flush()
    saved = sys.stdout
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stdout = saved


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables during the block: a launcher started later must not inherit our one-process world."""
    saved = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
