"""`pruneboard doctor`: this machine is usable, and a problem is named."""

from __future__ import annotations

import json

from pruneboard.cli import doctor, invoke


def test_a_usable_machine_passes(capfd, tmp_path):
    """`doctor` trains two steps, imports every plugin, and exits with 0 if runs work."""
    assert invoke(["doctor", "--json", "--results", str(tmp_path / "r")]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["ok"]
    assert {"deepspeed engine", "method probmask"} <= {f["what"] for f in found["findings"] if f["status"] == "ok"}
    assert not (tmp_path / "r").exists()


def test_a_problem_is_named(capfd, tmp_path):
    """`doctor` exits with 1 and reports the reason if the results folder is a file."""
    (tmp_path / "file").touch()
    assert invoke(["doctor", "--json", "--results", str(tmp_path / "file")]) == 1
    wrong = [f for f in json.loads(capfd.readouterr().out)["findings"] if f["status"] == "wrong"]
    assert [f["what"] for f in wrong] == ["results folder"]


def test_only_a_broken_built_in_method_is_a_problem(capfd, monkeypatch, site):
    """A broken third-party method is a note: it does not prevent runs with other methods."""
    site.add("theirs", "raise RuntimeError('no such device')", method="unusable")
    (found,) = [d for d in doctor._plugins() if d.what == "method unusable"]
    assert found.status == "note"
    assert "no such device" in found.detail


def test_a_failing_engine_is_a_problem(capfd, monkeypatch, tmp_path):
    """If DeepSpeed fails, the table says why and the command exits with 1."""
    monkeypatch.setattr(doctor, "_two_steps", lambda: 1 / 0)
    assert invoke(["doctor", "--results", str(tmp_path)]) == 1
    assert "two steps failed: ZeroDivisionError: division by zero" in " ".join(capfd.readouterr().out.split())
