"""Results folders to merge, and the command that merges them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from fake_records import LAYERS, put, record
from pruneboard.cli import invoke
from pruneboard.records import mask_file, store
from pruneboard.records.schema import dumps


def masks(first=100):
    """Return the content of a mask.npz that keeps the first positions of every layer, and its hash."""
    kept = [mask_file.pack(name, np.arange(n) < first) for name, n in LAYERS.items()]
    return mask_file.dumps(kept), mask_file.sha256(kept)


def put_run(results, made, **files):
    """Write a record and files of its run, named with `__` for the dot, and return the run's folder."""
    folder = put(results, made)
    for name, data in files.items():
        store.write_atomic(folder / name.replace("__", "."), data)
    return folder


def put_whole_run(results, method="probmask", seed=0, **changes):
    """Write a finished run with all files that a merge copies, and return its folder."""
    data, digest = masks()
    made = record(method, seed=seed, mask_sha256=digest, **changes)
    files = {"metrics__jsonl": b'{"step": 1}\n', "mask__npz": data, "log__txt": b"log\n"}
    return put_run(results, made, model__safetensors=b"weights", **files)


def archive(folder, name, number, made):
    """Write a record into an archive folder of a run."""
    return store.write_atomic(folder / name / f"{number:02d}.json", dumps(made).encode())


def tree(folder):
    """Return every file below a folder with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def stamps(folder):
    """Return every file and folder below a folder with its modification time."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def merge(*arguments):
    """Run `pruneboard merge` and return its exit code."""
    return invoke(["merge", *map(str, arguments)])


def document(capsys, *arguments):
    """Run `pruneboard merge --json` and return its exit code and its document."""
    capsys.readouterr()
    code = merge(*arguments, "--json")
    return code, json.loads(capsys.readouterr().out)


def counts(document):
    """Return the length of every list in a document that is not empty."""
    return {name: len(items) for name, items in document.items() if items}


def places(tmp_path: Path):
    """Return two sources and a destination."""
    return tmp_path / "a", tmp_path / "b", tmp_path / "dest"
