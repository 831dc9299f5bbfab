"""Manifest entries and folders of unfinished runs, for tests of sweep manifests and of `pruneboard status`."""

from __future__ import annotations

import json

from fake_records import record
from pruneboard.records import runfolder, store
from pruneboard.sweeps.manifest import ManifestEntry


def entry(made):
    """Return the manifest entry of a record."""
    return ManifestEntry(
        dataset=made["data"]["name"],
        model=made["model"]["name"],
        track=made["track"],
        method=made["method"]["name"],
        sparsity=made["sparsity"]["target"],
        seed=made["seed"],
        hash=made["hash"],
    )


def folder_of(results, made):
    """Return the folder of a record."""
    return store.run_folder(results, **vars(entry(made)))


def epoch(number, top1):
    """Return the fields of a line of metrics.jsonl that the status of a run depends on."""
    return {"epoch": number, "step": 10 * number, "validation": {"top1": top1}}


def stopped(results, seed, *epochs):
    """Write the folder of a stopped run, with a checkpoint and these lines of metrics; return the record to come."""
    made = record("probmask", 0.9, seed)
    folder = folder_of(results, made)
    runfolder.add_checkpoint(folder, 20, lambda path: path.write_bytes(b"weights"))
    for row in epochs:
        runfolder.append_metrics(folder, row)
    return made


RUN = vars(entry(record()))
VALID = {"schema": 1, "board": "b", "jobs": 1, "runs": [RUN]}
"""The content of a valid manifest."""

DAMAGED = {
    "not JSON": b"{",
    "not text": b"\xff\xfe",
    "empty": b"",
    "a list": b"[]",
    "another schema": json.dumps(VALID | {"schema": 2}).encode(),
    "no runs": json.dumps({"schema": 1, "board": "b", "jobs": 1}).encode(),
    "runs are a number": json.dumps(VALID | {"runs": 5}).encode(),
    "a run is a number": json.dumps(VALID | {"runs": [5]}).encode(),
    "a run is text": json.dumps(VALID | {"runs": ["dense"]}).encode(),
    "an unknown key": json.dumps(VALID | {"runs": [RUN | {"\x1b[31m": 1}]}).encode(),
    "a missing key": json.dumps(VALID | {"runs": [{"method": "a"}]}).encode(),
    "a name is a number": json.dumps(VALID | {"runs": [RUN | {"method": 5}]}).encode(),
    "a long value": json.dumps(VALID | {"runs": [RUN | {"seed": "x" * 10**6}]}).encode(),
    "zero jobs": json.dumps(VALID | {"jobs": 0}).encode(),
    "jobs are true": json.dumps(VALID | {"jobs": True}).encode(),
    "infinite jobs": json.dumps(VALID | {"jobs": float("inf")}).encode(),
    "too many jobs": json.dumps(VALID | {"jobs": 10**400}).encode(),
    "deeply nested": b"[" * 100_000,
}
"""Contents of files that are not valid manifests."""
