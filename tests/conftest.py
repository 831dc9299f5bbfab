"""Fixtures that several test modules share."""

from __future__ import annotations

import functools
import os
import signal
import sys

import pytest

from distributions import Site

# Results agree to the last bit only for equal numbers of threads. Set before anything imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts pytest in the background makes it ignore Ctrl-C, and the processes of tests inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _state_home(tmp_path_factory):
    """Keep the key of `pruneboard verify` out of the home folder, also in processes that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An empty folder at the front of `sys.path`; modules imported from it are unloaded afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield Site(folder)
    for name in set(sys.modules) - before:
        if name.startswith("stranger_"):
            del sys.modules[name]


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """A function that returns the folder of a tiny finished run, trained on first use; tests must not write to it."""

    @functools.cache
    def folder_of(method="magnitude", sparsity=0.9, **changes):
        import runs

        results = tmp_path_factory.mktemp("results")
        runs.run(results, method, sparsity, **changes)
        return runs.folder(results)

    return folder_of


@pytest.fixture
def rehearsed():
    """Two simulated GPUs; see tests/cuda/rehearsal.py."""
    from rehearsal import isolated_rehearsal

    with isolated_rehearsal() as simulated:
        yield simulated


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.gpu)])
def cuda(request):
    """A machine with CUDA devices: two simulated ones in the default tests, real ones under `tox -e gpu`."""
    if request.param == "simulated":
        request.getfixturevalue("rehearsed")
