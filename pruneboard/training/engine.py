"""The one door to DeepSpeed: start it, forward, backward, step, and the one durable way to write.

The default engine keeps parameters in float32 at ZeRO stage 0, where DeepSpeed equals plain PyTorch to
rounding. Stages 1 and 2 and bfloat16 autocast are options. Nothing here knows a method.
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
from pruneboard.training.compiling import Compiled
from pruneboard.training.gates import computed, gated_weights
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

    Works with no launcher, compiler, ninja or MPI, and leaves standard output to us: DeepSpeed logs there,
    and on a CPU it would compile an operator that only inference uses.
    """
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else a warning on stdout at first use
    world = World.current()
    with _stdout_to_stderr(), rendezvous.watched():
        rendezvous.join(world, cuda=device.type == "cuda")
        import deepspeed

        _quiet()
        if device.type == "cpu":
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        with _environment(_ONE_PROCESS if world.size == 1 else {}):
            deepspeed.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo", verbose=False)
        if world.size > 1:
            from deepspeed.utils import groups

            rendezvous.limit_waiting(groups._get_data_parallel_group())  # the one it reduces over
    return deepspeed


def shutdown() -> None:
    """Leave the process group; a later run in this process starts a new one, of as many processes as it has then."""
    from deepspeed import comm

    if comm.is_initialized():
        comm.destroy_process_group()
    rendezvous.part()


class Engine:
    """A model under DeepSpeed. It trains whatever is trainable, with one rule per parameter group.

    Attributes:
        model: the module, with gates attached; the same object that was given.
        rank, world: this process and how many there are.
        device: where it runs.
        groups: the live parameter groups; set `lr` there before each step.
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
        compiled: Compiled | None = None,
    ) -> None:
        """Hand `model` to `deepspeed.initialize`.

        Args:
            model: parameters in float32, all of one dimension or more.
            groups: as built by `pruneboard.training.optim.parameter_groups`; none where nothing is trained.
            device: where to run.
            micro_batch: images per forward pass on this process.
            clip: joint gradient norm over all that is trained; 0 is off.
            zero: stage 0, 1 or 2.
            precision: `fp32`, or `bf16` for autocast.
            compiled: what is called in place of `model`, the same network compiled.
        """
        deepspeed = start_deepspeed(device)
        self.model = model.to(device)
        self._compiled = compiled
        self._chains = gated_weights(self.model)
        self.device = device
        self._comm = deepspeed.comm
        zero = zero if groups else 0  # nothing to share out
        self._zero = zero
        self._trains = bool(groups)
        # Asked first: ZeRO puts flat partitions in the place of the parameters.
        self._group_of = {id(parameter): index for index, group in enumerate(groups) for parameter in group["params"]}
        optimizer = GroupedOptimizer(groups or [_nothing(device)])
        alone = World.current().size == 1
        with _stdout_to_stderr(), rendezvous.watched(), _environment(_ONE_PROCESS if alone else {}):
            self._engine, self._optimizer, _, _ = deepspeed.initialize(
                model=compiled or self.model,
                optimizer=optimizer,
                config=_config(micro_batch, clip, zero, precision),
            )
        _quiet()
        self._base_optimizer = optimizer
        self.rank: int = self._comm.get_rank()
        self.world: int = self._comm.get_world_size()
        if self.world == 1 and zero == 0:
            self._engine.enable_backward_allreduce = False  # it would flatten every gradient to reduce nothing

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The live parameter groups, at every ZeRO stage."""
        return self._optimizer.param_groups  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [batch, classes] in float32; every gate is evaluated exactly once."""
        with computed(self._chains):
            return self._engine(images).float()  # type: ignore[no-any-return]

    @rendezvous.watched()
    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradients of `loss`; `last` marks the step's final one, after which they are reduced."""
        if not loss.requires_grad:  # nothing is trained, and no method asked for a gradient
            return
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss)

    @rendezvous.watched()
    def step(self) -> None:
        """Clip, take the optimizer's step and clear the gradients."""
        if self._trains:
            self._engine.step()

    @torch.no_grad()
    def assign(self, parameter: nn.Parameter, new: Tensor) -> None:
        """Set `parameter` to `new`, on the module's copy and on the float32 master where there is one.

        Call it on every process with the same values. An in-place write alone would be undone by the next
        step at ZeRO stages 1 and 2, and a write to the master alone is a silent no-op at stage 0.
        """
        if self._zero:
            from deepspeed.utils import safe_set_full_fp32_param

            safe_set_full_fp32_param(parameter, new.contiguous())
        parameter.copy_(new)

    @torch.no_grad()
    def reset_optimizer_state(self, parameter: nn.Parameter, mask: Tensor) -> None:
        """Zero the per-element optimizer state of `parameter` where `mask` is true."""
        if not self._zero:
            for value in self._base_optimizer.state.get(parameter, {}).values():
                if value.shape == parameter.shape:
                    value.masked_fill_(mask, 0)
            return
        for value in self._flat_state(parameter).values():
            if value.dim() and (part := self._part(parameter, value)):
                part.held.masked_fill_(mask.reshape(-1)[part.positions], 0)

    @torch.no_grad()
    def optimizer_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Return the optimizer's tensors for `parameter`: per element in its shape, or a number without dimension.

        Collective at ZeRO stages 1 and 2, where every process holds a part.
        """
        if not self._zero:
            return dict(self._base_optimizer.state.get(parameter, {}))
        found = {}
        for name, value in self._flat_state(parameter).items():
            whole = value.clone()  # one for the whole group, and saved per parameter
            if value.dim():
                whole = torch.zeros(parameter.numel(), dtype=value.dtype, device=value.device)
                if part := self._part(parameter, value):
                    whole[part.positions] = part.held
                whole = self.sum(whole).reshape(parameter.shape)
            found[name] = whole
        return found

    @torch.no_grad()
    def load_optimizer_state(self, parameter: nn.Parameter, state: Mapping[str, Tensor]) -> None:
        """Put back what `optimizer_state` returned, at this stage and on this number of processes."""
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
                part.held.copy_(value.reshape(-1)[part.positions])

    def _flat(self, parameter: nn.Parameter) -> Tensor:
        """Return this process's share of the group that `parameter` is in, as ZeRO lays it out."""
        (flat,) = self._base_optimizer.param_groups[self._group_of[id(parameter)]]["params"]
        return flat  # type: ignore[no-any-return]

    def _flat_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self._base_optimizer.state[self._flat(parameter)]  # made empty where there is none
        return state

    def _part(self, parameter: nn.Parameter, flat: Tensor) -> _Part | None:
        """Return what this process holds of `parameter` in `flat`; None where it holds nothing."""
        fragment = parameter._hp_mapping  # type: ignore[attr-defined]
        if fragment is None:
            return None
        ours, held = fragment.lp_fragment_address, fragment.hp_fragment_address
        positions = slice(ours.start, ours.start + ours.numel)
        return _Part(positions, flat[held.start : held.start + held.numel])

    @rendezvous.watched()
    def sum(self, values: Tensor) -> Tensor:
        """Return `values` summed over all processes."""
        total = values.to(self.device).clone()
        if self.world > 1:
            self._comm.all_reduce(total)
        return total

    @rendezvous.watched()
    def average_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over all processes (running statistics, dense gradients)."""
        if self.world == 1:
            return
        for tensor in tensors:
            self._comm.all_reduce(tensor)
            tensor.div_(self.world)

    @rendezvous.watched()
    def broadcast(self, tensor: Tensor) -> Tensor:
        """Return `tensor`, contiguous and on the device, after the first process's values were copied into it."""
        if self.world > 1:
            self._comm.broadcast(tensor, src=0)
        return tensor

    @rendezvous.watched()
    def gather(self, tensor: Tensor) -> Tensor:
        """Return every process's `tensor`, stacked by rank: [world, ...]."""
        parts = [tensor]
        if self.world > 1:
            parts = [torch.empty_like(tensor) for _ in range(self.world)]
            self._comm.all_gather(parts, tensor)
        return torch.stack(parts)

    @rendezvous.watched()
    def largest(self, number: int) -> int:
        """Return the largest `number` of any process."""
        if self.world == 1:
            return number
        found = torch.tensor([number], device=self.device)
        self._comm.all_reduce(found, op=self._comm.ReduceOp.MAX)
        return int(found)

    @rendezvous.watched()
    def first_difference(self, tensors: Mapping[str, Tensor]) -> str | None:
        """Return the name of the first tensor whose bits differ between processes, or None.

        Compared by hashes: a sum would not see masks that keep as many positions at other places.
        """
        if self.world == 1 or not tensors:
            return None
        hashes = torch.tensor([_hash(tensor) for tensor in tensors.values()], device=self.device)
        low, high = hashes.clone(), hashes.clone()
        self._comm.all_reduce(low, op=self._comm.ReduceOp.MIN)
        self._comm.all_reduce(high, op=self._comm.ReduceOp.MAX)
        return next((name for name, same in zip(tensors, (low == high).tolist(), strict=True) if not same), None)

    def first_unassigned(self, parameters: Mapping[str, nn.Parameter]) -> str | None:
        """Return the name of the first parameter whose module copy is not the float32 master any more, or None."""
        if not self._zero:
            return None
        trained = {name: p for name, p in parameters.items() if id(p) in self._group_of}
        wrong = torch.tensor([self._strays(parameter) for parameter in trained.values()], device=self.device)
        return next((name for name, count in zip(trained, self.sum(wrong).tolist(), strict=True) if count), None)

    def _strays(self, parameter: nn.Parameter) -> bool:
        flat = self._flat(parameter).detach()
        part = self._part(parameter, flat)
        return part is not None and not torch.equal(part.held, parameter.detach().reshape(-1)[part.positions])

    def close(self) -> None:
        """Drop DeepSpeed's hold on the model, and what was compiled."""
        self._engine.destroy()
        if self._compiled is not None:
            self._compiled.close()


class _Part(NamedTuple):
    """What one process holds of a parameter under ZeRO: which elements, in row-major order, and a view of them."""

    positions: slice
    held: Tensor


def _nothing(device: torch.device) -> dict[str, Any]:
    """A group of one number that belongs to no model: DeepSpeed cannot go without something to optimize."""
    return {"name": "nothing", "params": [nn.Parameter(torch.zeros(1, device=device))], "rule": "sgd"} | {
        "lr": 0.0,
        "peak_lr": 0.0,
        "weight_decay": 0.0,
    }


def _config(micro_batch: int, clip: float, zero: int, precision: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": 1,  # passes and micro-batches are counted by us: their number changes
        "gradient_clipping": clip,  # never left out: that would mean 1.0
        "zero_optimization": {"stage": zero},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": None,
        "wall_clock_breakdown": False,
    }
    if precision == "bf16":
        # An empty list reduces every gradient in float32; else plain layers would be reduced in bfloat16
        # and gated ones not, which would train methods differently.
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    return config


def _hash(tensor: Tensor) -> int:
    """Return 63 bits that depend on every byte of the values in row-major order."""
    raw = tensor.detach().reshape(-1).contiguous().cpu().view(torch.uint8)
    return int.from_bytes(hashlib.blake2b(raw.numpy().data, digest_size=8).digest(), "big") >> 1


def _quiet() -> None:
    for name in ("DeepSpeed", "torch.distributed"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.ERROR)
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
                handler.setStream(sys.stderr)


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Send what libraries print while they start to standard error, where it harms no reader of ours."""
    sys.stdout.flush()
    saved = sys.stdout
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stdout = saved


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables for a while: a caller's later torchrun or DeepSpeed must not inherit our one-process world."""
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
