"""The rehearsal notices what a CPU hides, and computes the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import cuda_counts
import kernel_costs
from cuda_tasks import serve_addition
from pruneboard.models import state_sha256
from pruneboard.processes.child import Child
from pruneboard.processes.world import local_environments
from rehearsal import rehearsal
from simulated_tensor import CudaTensor


@pytest.fixture
def values(rehearsed):
    """Five numbers on a simulated GPU, all counts at zero."""
    made = torch.tensor([3.0, 0.0, -1.0, 2.0, 0.0]).cuda()
    rehearsed.counts.clear()
    return made


def test_a_network_computes_what_it_computes_on_the_cpu(rehearsed):
    """Outputs and gradients of a small network have the same bits on the simulated device, and are on it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    images = torch.randn(6, 3, 8, 8)
    expected = net(images)
    expected.square().sum().backward()
    gradients = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    net[1].reset_running_stats()
    net.cuda()
    found = net(images.cuda())
    found.square().sum().backward()
    assert found.device == torch.device("cuda", 0)
    assert torch.equal(found.detach().cpu(), expected.detach())
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        assert parameter.grad.device.type == "cuda"
        torch.testing.assert_close(parameter.grad.cpu(), gradient, rtol=1e-5, atol=1e-6)


def test_tensors_of_two_devices_do_not_mix(values):
    """An operation on a CUDA and a CPU tensor, or on tensors of two GPUs, is an error that names the devices."""
    with pytest.raises(RuntimeError, match=r"same device.*cuda:0 and cpu"):
        values * torch.ones(5)
    with pytest.raises(RuntimeError, match=r"same device.*cuda:0 and cpu"):
        torch.where(values > 0, values, torch.tensor(1.0))
    with pytest.raises(RuntimeError, match=r"same device.*cuda:1 and cuda:0"):
        values + torch.ones(5, device="cuda:1")
    assert (values * torch.tensor(2.0)).device == values.device  # torch takes such a tensor as a number


def test_a_generator_of_another_device_is_refused(values):
    """A generator draws only on its own device, whether a tensor is created or filled."""
    on_cpu, on_cuda = torch.Generator(), torch.Generator("cuda")
    for draw in (
        lambda: torch.rand(3, generator=on_cpu, device="cuda"),
        lambda: torch.rand(3, generator=on_cuda),
        lambda: values.uniform_(generator=on_cpu),
    ):
        with pytest.raises(RuntimeError, match="device type for generator"):
            draw()
    assert torch.rand(3, generator=on_cuda, device="cuda").is_cuda
    assert torch.rand(3, generator=on_cpu).device.type == "cpu"


def test_the_meta_device_stays_what_it_is(rehearsed):
    """A network on the meta device has shapes only, and does not use the GPU."""
    assert torch.empty(2, device="meta").is_meta
    with torch.device("meta"):
        assert all(parameter.is_meta for parameter in nn.Linear(2, 3).parameters())
    assert not rehearsed.gpus.initialized
    assert torch.nn.functional.one_hot(torch.tensor([1, 0]).cuda(), 3).sum().item() == 2


def test_numpy_and_pickle_need_a_copy_on_the_host(values, tmp_path):
    """A CUDA tensor has no numpy array, and is not written into files or messages."""
    with pytest.raises(TypeError, match=r"use Tensor\.cpu"):
        values.numpy()
    with pytest.raises(TypeError, match="pickled"):
        torch.save(values, tmp_path / "values.pt")
    assert values.cpu().numpy().tolist() == [3, 0, -1, 2, 0]


SYNCHRONIZING = {
    "item": (lambda v: v.sum().item(), "_local_scalar_dense"),
    "bool": (lambda v: bool(v.any()), "_local_scalar_dense"),
    "float": (lambda v: float(v[0]), "_local_scalar_dense"),
    "tolist": (lambda v: v.tolist(), "tolist"),
    "nonzero": (lambda v: v.nonzero(), "nonzero"),
    "boolean index": (lambda v: v[v > 0], "index by a mask"),
    "assignment by a boolean index": (lambda v: v.__setitem__(v > 0, torch.ones(2, device="cuda")), "index by a mask"),
    "index from the host": (lambda v: v[torch.tensor([1, 2])], "index from the host"),
    "equal": (lambda v: torch.equal(v, v.clone()), "equal"),
    "copy to the host": (lambda v: v.cpu(), "copy to the host"),
    "pageable copy": (lambda v: v.add_(torch.ones(5).to(v.device)), "copy from pageable memory"),
    "pageable copy that does not block": (
        lambda v: torch.ones(5).to("cuda", non_blocking=True),
        "copy from pageable memory",
    ),
    "copy into a tensor": (lambda v: v.copy_(torch.ones(5)), "copy from pageable memory"),
    "number": (lambda v: torch.tensor(1.0, device="cuda"), "copy from pageable memory"),
    "torch.cuda.synchronize": (lambda v: torch.cuda.synchronize(), "torch.cuda.synchronize"),
}


@pytest.mark.parametrize("name", SYNCHRONIZING)
def test_a_host_synchronization_is_counted(rehearsed, values, name):
    """Each operation for which the host waits is counted once, as its kind."""
    call, kind = SYNCHRONIZING[name]
    call(values)
    assert rehearsed.counts.kinds() == {kind: 1}


def test_work_on_the_device_is_no_synchronization(rehearsed, values):
    """Arithmetic, masks without an index, creation on the device and copies from pinned memory are not counted."""
    mask = values > 0
    values.mul_(2).masked_fill_(mask, 0)
    torch.where(mask, values, torch.zeros_like(values))
    torch.zeros(3, device="cuda").add_(1)
    values[1:3].sum()
    values.copy_(torch.ones(5).pin_memory(), non_blocking=True)
    torch.ones(5).pin_memory().to("cuda", non_blocking=True)
    assert not rehearsed.counts.synchronizations


def test_a_synchronization_is_counted_with_its_stage_and_source_line(rehearsed, values):
    """The count names the stage and the line of pruneboard that made the host wait."""
    with rehearsed.counts.at("hash"):
        state_sha256({"values": values})
    ((stage, kind, lines),) = rehearsed.counts.synchronizations
    assert (stage, kind) == ("hash", "copy to the host")
    assert "pruneboard/models/" in lines
    assert rehearsed.counts.kinds("hash") == {"copy to the host": 1}
    assert not rehearsed.counts.kinds("other")


def test_operations_and_kernels_are_counted(rehearsed, values):
    """Views cost nothing, an operation costs a kernel, and a list of tensors costs one kernel for many of them."""
    values.view(5, 1).t()
    assert not rehearsed.counts.operations
    torch._foreach_mul_([values.clone() for _ in range(60)], 2.0)
    assert rehearsed.counts.operations == {("other", "clone"): 60, ("other", "_foreach_mul_"): 1}
    assert rehearsed.counts.kernels == {"other": 62}
    assert kernel_costs.kernels("convolution_backward", ()) == 2


def test_memory_is_counted_as_long_as_a_tensor_uses_it(rehearsed):
    """A storage counts once, with all its views, rounded up as by torch's allocator, until its last tensor is gone."""
    before = torch.cuda.memory_allocated()
    block = torch.zeros(1000, device="cuda")
    part = block[:10]
    assert torch.cuda.memory_allocated() - before == 4096
    del block
    assert torch.cuda.memory_allocated() - before == 4096
    del part
    assert torch.cuda.memory_allocated() == before
    assert torch.cuda.max_memory_allocated() >= before + 4096
    free, total = torch.cuda.mem_get_info()
    assert total - free == before


def test_nothing_is_left_of_a_rehearsal():
    """After the block, torch has its own functions again, and CUDA is as unavailable as before."""
    before = (torch.Generator, torch.tensor, torch.cuda.is_available, torch.distributed.new_group)
    available = torch.cuda.is_available()
    with rehearsal(devices=3):
        assert torch.cuda.device_count() == 3
        assert isinstance(torch.zeros(2, device="cuda:2"), CudaTensor)
        with torch.device("meta"):
            assert torch.tensor(0).is_meta
    with torch.device("meta"):
        assert torch.tensor(0).is_meta
    assert before == (torch.Generator, torch.tensor, torch.cuda.is_available, torch.distributed.new_group)
    assert torch.cuda.is_available() == available
    assert not cuda_counts._active


def test_visible_devices_are_counted_from_zero(rehearsed, monkeypatch):
    """CUDA_VISIBLE_DEVICES hides the other GPUs, as on a real machine."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert torch.cuda.device_count() == 1
    assert torch.cuda.get_device_name(torch.ones(3, device="cuda").device) == "Simulated GPU 1"
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.cuda.set_device(1)


def test_gloo_carries_out_nccl_and_nccl_refuses_cpu_tensors(rehearsed):
    """Children, which are in the rehearsal too, add tensors on their GPUs, and CPU tensors in a gloo group only."""
    children = [Child(serve_addition, rank, variables) for rank, variables in enumerate(local_environments(2))]
    for rank, (name, summed, on_host, error) in enumerate([child.pipe.recv() for child in children]):
        assert name == f"Simulated GPU {rank}"
        assert summed == [3.0] * 4
        assert on_host == [2.0] * 2
        assert "No backend type associated with device type cpu" in error


def test_the_gradient_of_a_copy_returns_to_the_host(rehearsed):
    """Autograd passes through a copy to the device."""
    weight = torch.ones(3, requires_grad=True)
    functional.relu(weight.cuda() * 2).sum().backward()
    assert weight.grad.tolist() == [2, 2, 2]
