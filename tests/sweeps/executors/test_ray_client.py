"""The connection to a Ray cluster: wrong addresses and errors of Ray become one line, and signals are deferred."""

from __future__ import annotations

import os
import signal
import socket
import sys
from types import SimpleNamespace

import pytest

from pruneboard.errors import InterruptedRunError, UsageError
from pruneboard.sweeps.executors import ray_client


@pytest.mark.parametrize("address", ["ray://head:10001", "local", "head", "head:", ":6379", "http://head:8265"])
def test_an_invalid_address_is_refused(monkeypatch, address):
    """Only HOST:PORT is accepted: `local` would start a cluster, and a Ray client uses another protocol."""
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UsageError, match="is not the HOST:PORT"):
        ray_client.cluster_address()


def test_an_address_without_a_server_is_refused_at_once(monkeypatch):
    """If nothing listens at RAY_ADDRESS, the message says so and how to start a cluster."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{probe.getsockname()[1]}")
        with pytest.raises(UsageError, match=r"cannot connect to RAY_ADDRESS=.*ray start --head"):
            ray_client.cluster_address()


def test_an_address_with_a_server_is_used(monkeypatch):
    """An address that accepts connections is returned unchanged; without one the cluster of this machine is used."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert ray_client.cluster_address() == address
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert ray_client.cluster_address() == "auto"


@pytest.mark.parametrize(
    ("raised", "error", "message"),
    [
        (ConnectionError("use `--address`"), UsageError, "found no Ray cluster: run `ray start --head`"),
        (
            RuntimeError("Version mismatch:\n  Ray: 2.9"),
            UsageError,
            "cannot join the cluster: Version mismatch: Ray: 2.9",
        ),
        (SystemExit(15), InterruptedRunError, "stopped by SIGTERM"),
    ],
    ids=["no cluster", "another version", "SIGTERM"],
)
def test_errors_of_connecting_become_one_line(monkeypatch, raised, error, message):
    """Errors of `ray.init` become one line, and the handler of SIGTERM is restored. Ray is replaced by a stub."""

    def init(**given):
        assert (given["address"], given["log_to_driver"]) == ("auto", False)  # never None, which would start a cluster
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise raised

    before = signal.getsignal(signal.SIGTERM)
    exceptions = SimpleNamespace(RayError=KeyError)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init, exceptions=exceptions))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(error, match=message):
        ray_client.connect()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, InterruptedRunError)]
)
def test_a_signal_is_deferred_to_the_end_of_the_block(number, error):
    """A signal does not interrupt the block; its exception is raised afterwards."""
    finished = []
    with pytest.raises(error), ray_client.deferred_signals():  # noqa: PT012 - the block must run to its end
        os.kill(os.getpid(), number)
        finished.append(True)
    assert finished


def test_the_last_line_of_an_error_states_the_cause():
    """A Ray error contains a traceback, of which the last line is shown; an empty one is shown by its type."""
    assert ray_client.last_line(RuntimeError("Traceback:\n  in f\nValueError: no\n")) == "ValueError: no"
    assert ray_client.last_line(RuntimeError("")) == "RuntimeError"
