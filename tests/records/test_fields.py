"""The fields of a record: each is validated when it is read, so that a bad record never stops a reader."""

from __future__ import annotations

import ast
import json
import re

import pytest

from fake_records import change, put, record
from project import ROOT
from pruneboard.leaderboard import folders
from pruneboard.records import fields
from pruneboard.records import schema as records
from pruneboard.records.schema import RecordError

READERS = ("leaderboard", "report", "artifacts", "records", "sweeps")
WRONG = ["x", -1, 1.5, True, [], ["x"], {}, {"x": {}}, 10**400]


def complete():
    """A valid record that has a value at every path of `FIELDS`."""
    bits = {"mask": 1, "counts": 1, "seed": 64, "extras": 0, "statistics": 0, "total": 66}
    code = {"method": "a", "pruneboard": "b"}
    made = record("probmask", 0.7, cost__storage_bits=bits, software__code=code, mask_sha256="f" * 64)
    made["data"] |= {"mean": [0.5], "std": [0.5]}
    for path, field in fields.FIELDS.items():
        if "*" not in path and records.lookup(made, path) is None and not field.nullable:
            change(made, path, next(value for value in (0.5, 1, "text", True, [], {}) if field.accepts(value)))
    made["board"]["fingerprint"] = records.fingerprint(made["board"])
    return records.validate(made)


def concrete_paths():
    """Every path of `FIELDS`, with `*` replaced by the keys of the complete record, and those of a layer."""
    made = complete()
    for path in fields.FIELDS:
        if path.endswith(".*"):
            yield from (f"{path[:-1]}{key}" for key in records.lookup(made, path[:-2]))
        else:
            yield path


@pytest.mark.parametrize("path", sorted(concrete_paths()))
def test_a_wrong_value_in_any_field_is_an_error_that_names_it(path):
    """Values of a type that a field does not have are refused, with the path of the field and in one line."""
    field = fields.FIELDS.get(path) or fields.FIELDS[re.sub(r"\w+$", "*", path)]
    wrong = [value for value in WRONG if not field.accepts(value)]
    assert wrong
    for value in wrong:
        with pytest.raises(RecordError, match=rf"^{re.escape(path)} must be ") as caught:
            records.validate(change(complete(), path, value))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", fields.LAYER_FIELDS)
def test_a_wrong_value_in_any_field_of_a_layer_is_an_error_that_names_it(key):
    """The fields of a layer are validated like those of a record."""
    for value in (value for value in WRONG if not fields.LAYER_FIELDS[key].accepts(value)):
        made = complete()
        made["sparsity"]["layers"][1][key] = value
        with pytest.raises(RecordError, match=rf"^sparsity\.layers\.1\.{key} must be "):
            records.validate(made)


def test_layers_have_different_names():
    """Two layers with one name are refused, because readers look layers up by name."""
    made = complete()
    made["sparsity"]["layers"][1]["name"] = made["sparsity"]["layers"][0]["name"]
    with pytest.raises(RecordError, match=r"^sparsity\.layers must have different names; 'conv1' occurs 2 times"):
        records.validate(made)


def looked_up():
    """(file, path) of every constant path that a reader looks up in a record."""
    for package in READERS:
        for file in (ROOT / "pruneboard" / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "lookup":
                    path = node.args[1]
                    if isinstance(path, ast.Constant) and isinstance(path.value, str):
                        yield str(file.relative_to(ROOT)), path.value


def test_every_path_that_a_reader_looks_up_is_validated():
    """Readers of records look up only paths of `FIELDS`, some of them within a layer or the block `sparsity`."""
    found = set(looked_up())
    assert len(found) > 30
    validated = {*fields.FIELDS, *fields.LAYER_FIELDS, "error.message"}
    for file, path in found:
        names = {path, f"sparsity.{path}", re.sub(r"\w+$", "*", path)}
        assert names & validated, f"{file} looks up {path}, which is not validated"


def test_a_record_with_a_wrong_value_in_any_field_is_one_skipped_line(tmp_path):
    """One record per field, with a wrong value in it, leaves the board of the valid records unchanged."""
    put(tmp_path, record())
    paths = sorted(concrete_paths())
    for number, path in enumerate(paths):
        field = fields.FIELDS.get(path) or fields.FIELDS[re.sub(r"\w+$", "*", path)]
        folder = tmp_path / "bad" / f"{number}"
        folder.mkdir(parents=True)
        value = next(value for value in WRONG if not field.accepts(value))
        (folder / "run.json").write_text(json.dumps(change(complete(), path, value)))
    found = folders.load([tmp_path])
    assert (len(found.boards), found.total, len(found.problems)) == (1, 1, len(paths))
    assert {reason.split(" must be ")[0] for _, reason in found.problems} == set(paths)
