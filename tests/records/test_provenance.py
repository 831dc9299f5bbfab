"""The provenance in a record: versions, commit, digests of code, and hardware."""

from __future__ import annotations

import datetime as dt
import hashlib
import importlib.util
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from project import ROOT
from pruneboard.records import provenance

METHOD = "stranger_thing:Thing"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of one file that a method could be in; writing to it changes its code."""
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "stranger_thing.py"
    path.write_text("raise SystemExit('a digest must not import the method')\n")
    return path


def digest(*files) -> str:
    """Return the digest over the names and contents of files, by its definition."""
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()[:12]


def test_software_has_the_installed_versions():
    """Each listed distribution has the version of its metadata, and a distribution that is not installed has None."""
    software = provenance.software("pruneboard_dense:Dense")
    assert software["python"] == platform.python_version()
    assert software["torch"] == metadata.version("torch")
    assert set(provenance.PACKAGES) <= set(software)
    assert provenance.version_of("no-such-distribution") is None


def test_the_commit_is_that_of_the_checkout():
    """In a git checkout it is `HEAD`, with a flag for changed files; elsewhere both are None."""
    source = importlib.util.spec_from_file_location("checkout", ROOT / "pruneboard/records/provenance.py")
    checkout = importlib.util.module_from_spec(source)  # the tests may run against an installed copy
    source.loader.exec_module(checkout)
    software = checkout.software("pruneboard_dense:Dense")
    if not (ROOT / ".git").exists():
        assert (software["commit"], software["dirty"]) == (None, None)
        return
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    assert software["commit"] == subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert software["dirty"] in (True, False)


def test_an_installed_copy_has_no_commit(tmp_path):
    """A copy outside a checkout reports None, even if the current folder is a checkout."""
    package = tmp_path / "copied.py"
    package.write_bytes(Path(provenance.__file__).read_bytes())
    code = "import copied; print(copied._git('rev-parse', 'HEAD'))"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "None\n"


def test_the_digest_covers_a_module_and_changes_with_its_code(module):
    """A method in a single file has the digest of that file, and its module is not imported."""
    first = provenance.software(METHOD)["code"]
    assert first["method"] == digest(module)
    module.write_text("changed = True\n")
    second = provenance.software(METHOD)["code"]
    assert second["method"] == digest(module) != first["method"]
    assert second["pruneboard"] == first["pruneboard"]
    assert "stranger_thing" not in sys.modules


def test_the_digest_of_a_package_covers_all_its_files(tmp_path, monkeypatch):
    """A method's whole top-level package counts, including modules that its class is not in."""
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "stranger_package"
    (package / "inner").mkdir(parents=True)
    files = [package / "__init__.py", package / "inner" / "part.py", package / "method.py"]
    for number, path in enumerate(files):
        path.write_text(f"n = {number}\n")
    assert provenance.software("stranger_package.method:Thing")["code"]["method"] == digest(*files)


def test_what_must_be_equal_to_resume_follows_the_code(module):
    """A change of the method changes its own entry only, and every entry is text that a checkpoint can store."""
    first = provenance.code_versions(METHOD)
    assert all(isinstance(value, str) for value in first.values())
    assert first["torch"] == metadata.version("torch")
    module.write_text("changed = True\n")
    second = provenance.code_versions(METHOD)
    assert {name for name in first if first[name] != second[name]} == {"code of the method"}


def test_hardware_names_the_device_without_the_host():
    """Device, processor, cores and threads are recorded, and neither the host's name nor the user's."""
    hardware = provenance.hardware(torch.device("cpu"), 3)
    assert hardware == {
        "device": "cpu",
        "gpu": None,
        "processor": provenance.processor(),
        "cores": os.cpu_count(),
        "threads": 3,
    }
    assert hardware["processor"]
    assert platform.node() not in map(str, hardware.values())


def test_hardware_of_a_gpu_has_the_versions_of_its_software(rehearsed, tmp_path, monkeypatch):
    """On a GPU its name and the versions of CUDA, cuDNN, NCCL and the driver are recorded; the last may be unknown."""
    driver = tmp_path / "version"
    monkeypatch.setattr(provenance, "DRIVER", driver)
    hardware = provenance.hardware(torch.device("cuda", 1), 1)
    assert {"gpu": "Simulated GPU 1", "cuda": "13.2", "cudnn": "92600", "nccl": "2.30.7"}.items() <= hardware.items()
    assert hardware["driver"] is None
    driver.write_text("580.65.06\n")
    assert provenance.hardware(torch.device("cuda", 1), 1)["driver"] == "580.65.06"


def test_the_time_is_in_utc_to_the_second():
    """The text is an ISO date with Z, and not in the future."""
    found = dt.datetime.strptime(provenance.now(), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.timezone.utc)
    assert found <= dt.datetime.now(dt.timezone.utc)
    assert found.microsecond == 0
