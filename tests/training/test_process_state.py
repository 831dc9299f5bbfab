"""The state of a process: settings are restored after a block, and every draw from a global generator shows."""

from __future__ import annotations

import _thread
import gc
import io
import logging
import os
import random
import resource
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from data_cases import LARGE, write_tree
from pruneboard.training import process_state
from runs import run

CHANGES = {
    "the environment variables": lambda _: os.environ.update(PRUNEBOARD_TEST="1"),
    "the working directory": os.chdir,
    "torch's default dtype": lambda _: torch.set_default_dtype(torch.float64),
    "torch's number of threads": lambda _: torch.set_num_threads(torch.get_num_threads() + 1),
    "torch's gradient mode": lambda _: torch.set_grad_enabled(not torch.is_grad_enabled()),
    "torch's deterministic mode": lambda _: torch.use_deterministic_algorithms(
        not torch.are_deterministic_algorithms_enabled()
    ),
    "torch's matrix multiplication precision": lambda _: torch.set_float32_matmul_precision("medium"),
    "cuDNN's benchmark mode": lambda _: setattr(torch.backends.cudnn, "benchmark", not torch.backends.cudnn.benchmark),
    "cuDNN's deterministic mode": lambda _: setattr(
        torch.backends.cudnn, "deterministic", not torch.backends.cudnn.deterministic
    ),
    "torch's use of cuDNN": lambda _: setattr(torch.backends.cudnn, "enabled", False),
    "torch's use of oneDNN": lambda _: torch.backends.mkldnn.set_flags(False),
    "oneDNN's deterministic mode": lambda _: torch._C._set_mkldnn_deterministic(
        not torch._C._get_mkldnn_deterministic()
    ),
    "torch's use of NNPACK": lambda _: torch.backends.nnpack.set_flags(False),
    "torch's treatment of denormal numbers": lambda _: torch.set_flush_denormal(True),
    "torch's global hooks": lambda _: torch.nn.modules.module.register_module_forward_hook(print),
    "the signal handlers": lambda _: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
    "the interval timers": lambda _: signal.setitimer(signal.ITIMER_REAL, 1000),
    "the callbacks of the garbage collector": lambda _: gc.callbacks.append(lambda *_: None),
    "torch's autocast": lambda _: torch.set_autocast_enabled("cpu", True),
    "torch's anomaly detection": lambda _: torch.autograd.set_detect_anomaly(mode=True),
    "the file mode mask": lambda _: os.umask(0o123),
    "the resource limits": lambda _: resource.setrlimit(resource.RLIMIT_FSIZE, (2**40, resource.RLIM_INFINITY)),
    "the standard streams": lambda _: setattr(sys, "stderr", io.StringIO()),
    "the level of all log messages": lambda _: logging.disable(),
    "whether garbage is collected": lambda _: gc.disable(),
    "oneDNN's precision of convolutions": lambda _: setattr(torch.backends.mkldnn.conv, "fp32_precision", "bf16"),
    "torch's hooks of saved tensors": lambda _: torch.autograd.graph.saved_tensors_hooks(str, str).__enter__(),
    "Python's trace function": lambda _: sys.settrace(lambda *_: None),
    "Python's profile function": lambda _: sys.setprofile(lambda *_: None),
}
LASTING = {"the number of threads", "torch's function modes"}
"""Settings that `settings_restored` cannot undo; they show while the thread runs, or the mode is active."""


def test_every_setting_has_a_case():
    """The cases below cover every setting."""
    assert set(CHANGES) | LASTING == set(process_state.settings())


def changed_by(change, folder, *, before, expected):
    """Make the change, assert which settings differ from `before`, and raise an error."""
    change(folder)
    assert {name for name, value in process_state.settings().items() if value != before[name]} == expected
    raise ZeroDivisionError


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_setting_shows_and_is_restored(name, tmp_path):
    """A change inside the block shows in that setting only, and is undone after it, even after an error."""
    before = process_state.settings()
    with pytest.raises(ZeroDivisionError), process_state.settings_restored():
        changed_by(CHANGES[name], tmp_path, before=before, expected={name})
    assert process_state.settings() == before


def test_a_running_thread_shows():
    """A thread that runs is a changed setting until it ends."""
    before, end = process_state.settings(), threading.Event()
    thread = threading.Thread(target=end.wait, name="mine")
    thread.start()
    try:
        assert process_state.change(before) == "left the thread 'mine' running"
        assert process_state.change(before, without=[process_state.THREADS]) is None
        during = process_state.settings()
    finally:
        end.set()
        thread.join()
    assert process_state.change(before) is None
    assert process_state.change(during) is None  # a thread that ends is no change


def test_a_thread_without_an_object_shows():
    """A thread that Python's `threading` does not list is counted too."""
    before, started, end = process_state.settings(), threading.Event(), threading.Event()
    _thread.start_new_thread(lambda: (started.set(), end.wait()), ())
    started.wait()
    found = process_state.change(before)
    end.set()
    assert found in {"left a thread running", *(f"left the thread {t.name!r} running" for t in threading.enumerate())}


def test_an_active_function_mode_shows():
    """A mode that intercepts torch's functions is a changed setting while it is active."""
    before = process_state.settings()
    with torch.device("cpu"):
        assert process_state.change(before) == "changed torch's function modes"
    assert process_state.change(before) is None


def test_a_deleted_working_directory_is_left(tmp_path):
    """A block that leaves the working directory for one that is then deleted returns to the first."""
    before = Path.cwd()
    (tmp_path / "gone").mkdir()
    with process_state.settings_restored():
        os.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
    assert Path.cwd() == before


def test_a_removed_variable_is_restored(monkeypatch):
    """An environment variable that is deleted inside the block is there again after it."""
    monkeypatch.setenv("PRUNEBOARD_TEST", "kept")
    with process_state.settings_restored():
        del os.environ["PRUNEBOARD_TEST"]
    assert os.environ["PRUNEBOARD_TEST"] == "kept"


@pytest.mark.parametrize(
    ("name", "draw"),
    [("torch", lambda: torch.rand(1)), ("numpy", np.random.rand), ("Python", random.random)],
)
def test_a_draw_changes_the_random_state(name, draw):
    """A draw from a global generator changes the state of that generator only; without a draw nothing changes."""
    before = process_state.random_state()
    assert process_state.random_state() == before
    draw()
    after = process_state.random_state()
    assert [key for key in before if before[key] != after[key]] == [f"the random state of {name}"]


@pytest.mark.parametrize(
    ("method", "options"), [("snip", {"images": 16}), pytest.param("probmask", {"samples": 2}, marks=pytest.mark.slow)]
)
def test_loaders_of_streaming_images_are_no_change(tmp_path, method, options):
    """Methods that read images in a hook pass, although reading starts processes, threads and a signal handler."""
    tree = write_tree(tmp_path / "large", LARGE, each=12)
    changes = {"dataset": "folder", "data_dir": str(tree), "limit_train": None}
    sizes = {"batch_size": 8, "norm_batch": 8, "epochs": 1, "image_size": 32, "val_fraction": 0.2}
    assert run(tmp_path / "out", method, options=options, overrides=sizes, **changes)["status"] == "done"
