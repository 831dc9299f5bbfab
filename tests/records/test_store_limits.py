"""Limits of a record: size, depth and number of values, for readers as well as for the writer."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from fake_records import put, record
from pruneboard.errors import StoreError
from pruneboard.experiment.outcome import MAX_MESSAGE
from pruneboard.records import schema as records
from pruneboard.records import store

MANY = {
    "objects": "[" + "{}," * (store.LARGEST_FILE // 3 - 2000) + "0]",
    "lists": "[" + "[]," * (store.LARGEST_FILE // 3 - 2000) + "0]",
    "numbers": "[" + "0," * (store.LARGEST_FILE // 2 - 4000) + "0]",
    "keys": "{" + ",".join(f'"{number}":0' for number in range(300_000)) + "}",
    "layers of lists": "[" + ",".join("[" * 20 + "]" * 20 for _ in range(90_000)) + "]",
}
"""Values that would take a hundred megabytes each as Python objects."""


def with_extra(value):
    """The text of a valid record with one more field, whose value is JSON text."""
    return json.dumps(record())[:-1] + f', "extra": {value}}}'


@pytest.mark.parametrize("value", MANY.values(), ids=MANY)
def test_a_record_with_too_many_values_is_refused_without_parsing_it(tmp_path, value):
    """A file of 4 MiB full of small values is refused in a line, and takes little more memory than its own size."""
    path = tmp_path / "run.json"
    path.write_text(with_extra(value))
    assert path.stat().st_size < store.LARGEST_FILE
    tracemalloc.start()
    try:
        with pytest.raises(StoreError, match=r"^is not a record: it has more than 50,000 values$"):
            store.read(path)
        assert tracemalloc.get_traced_memory()[1] < 3 * store.LARGEST_FILE
    finally:
        tracemalloc.stop()


def test_records_are_read_one_at_a_time(tmp_path):
    """Thirty records of 4 MiB that are refused take no more memory than a few of them."""
    put(tmp_path, record())
    for number in range(30):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "run.json").write_text(with_extra(MANY["objects"]))
    tracemalloc.start()
    try:
        found = store.scan([tmp_path])
        assert tracemalloc.get_traced_memory()[1] < 4 * store.LARGEST_FILE
    finally:
        tracemalloc.stop()
    assert (len(found.records), len(found.problems)) == (1, 30)


@pytest.mark.parametrize("extra", [0, 1])
def test_the_number_of_values_is_exact(extra):
    """A record of exactly 50,000 values is valid, and one more is an error; keys at any depth count."""
    made = record(extra={"deep": []})
    count = sum(1 for _ in walk(made))
    made["extra"]["deep"] = [0] * (records.MAX_VALUES - count + extra)
    if not extra:
        assert records.validate(made) is made
        return
    with pytest.raises(records.RecordError, match=r"^a record must not have more than 50,000 values$"):
        records.validate(made)


def walk(value):
    """Every value inside a value."""
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield item
        yield from walk(item)


def test_a_record_of_1000_layers_is_far_below_the_limits(tmp_path):
    """A network of 1,000 layers gives a record that is written and read back."""
    made = record(status="failed")
    keys = ("n", "nonzero", "kept", "positions", "alive", "macs_dense", "macs_remaining")
    made["sparsity"]["layers"] = [{"name": f"blocks.{i}.attn.qkv"} | dict.fromkeys(keys, 10**6) for i in range(1000)]
    path = put(tmp_path, made) / "run.json"
    assert store.read(path) == made
    assert 4 * path.stat().st_size < store.LARGEST_FILE


def test_what_cannot_be_read_is_not_written(tmp_path):
    """A record above the size limit is refused by the writer too, and leaves no file."""
    with pytest.raises(StoreError, match="must not be larger than 4 MiB"):
        store.put(tmp_path, record(note="x" * store.LARGEST_FILE))
    assert not list(tmp_path.iterdir())
    assert MAX_MESSAGE < store.LARGEST_FILE / 100


def test_a_size_limit_reserves_no_memory(tmp_path):
    """A file is read up to any limit, even one beyond the address space, without allocating it."""
    (tmp_path / "small").write_bytes(b"content")
    assert store.read_bytes(tmp_path / "small", 10**30) == b"content"


def test_json_with_many_values_for_its_size_is_refused_without_parsing_it():
    """Sixteen megabytes of empty objects are refused, and take little more memory than the text."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="too many values for its size"):
            store.parse_json(b"[" + b"{}," * (16 * 2**20 // 3) + b"{}]")
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()


def test_json_as_this_program_writes_it_is_read():
    """A file of 50,000 entries of a manifest is below the limit for values."""
    entry = {
        "dataset": "d",
        "model": "m",
        "track": "prune",
        "method": "a",
        "sparsity": 0.9,
        "seed": 1,
        "hash": "0" * 64,
    }
    assert store.parse_json(json.dumps([entry] * 50_000, indent=1).encode()) == [entry] * 50_000
