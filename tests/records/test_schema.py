"""The record's schema: valid and invalid values, the paths in messages, canonical form and hashes."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_records import change, record
from pruneboard.errors import PruneboardError
from pruneboard.records import fields
from pruneboard.records import schema as records
from pruneboard.records.schema import RecordError

LITERAL_PATHS = [
    *("schema", "status", "track", "hash", "seed", "method.name", "method.distribution", "method.version"),
    *("method.options", "model.name", "model.initial_sha256", "data.name", "sparsity.target", "sparsity.measured"),
    *("sparsity.nonzero", "sparsity.kept_zero", "sparsity.prunable", "sparsity.layers", "metrics.test.top1"),
    *("metrics.validation.top1", "cost.forward_passes", "cost.train_macs", "cost.wall_seconds"),
    "cost.peak_memory_bytes",
]


def remove(made, path):
    """Delete the value at a dotted path."""
    *parents, last = path.split(".")
    del (records.lookup(made, ".".join(parents)) if parents else made)[last]


def test_a_complete_record_is_valid_and_equals_its_parsed_text():
    """Writing and parsing a valid record gives the same record."""
    made = record(seed=3)
    assert json.loads(records.dumps(records.validate(made))) == made


@pytest.mark.parametrize("status", [s for s in fields.STATUSES if s != "done"])
def test_a_failed_record_needs_no_results(status):
    """With every status but `done`, a record is valid without metrics, cost and counts."""
    assert records.validate(record(status=status))["error"]["message"] == f"the run is {status}"


@pytest.mark.parametrize("path", LITERAL_PATHS)
def test_every_path_other_tools_rely_on_is_required_and_typed(path):
    """A finished record in which a documented path is missing, or is an object, is an error that names the path."""
    made = record()
    remove(made, path)
    with pytest.raises(RecordError, match=f"^{path} is missing"):
        records.validate(made)
    wrong = [] if path == "method.options" else {}
    with pytest.raises(RecordError, match=f"^{path} must be "):
        records.validate(change(record(), path, wrong))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema", 2),
        ("schema", True),
        ("rules", 0),
        ("hash", "f" * 63),
        ("hash", "F" * 64),
        ("hash", "f" * 64 + "\n"),
        ("status", "finished"),
        ("status", "timeout"),
        ("status", ["done"]),
        ("track", "both"),
        ("error", {"kind": "RunError"}),
        ("board", []),
        ("board.fingerprint", "0" * 11),
        ("method.name", ""),
        ("method.name", "x" * 257),
        ("method.traits.hits_target", 1),
        ("method.traits.control", "ceiling"),
        ("seed", -1),
        ("seed", 1.0),
        ("seed", True),
        ("sparsity.target", 1),
        ("sparsity.target", math.nan),
        ("sparsity.measured", 1.5),
        ("sparsity.layers.0", None),
        ("sparsity.alive", 1.5),
        ("sparsity.effective", 1.5),
        ("sparsity.effective_unknown", 1),
        ("metrics", []),
        ("metrics.test.top1", -0.1),
        ("metrics.test.top1", math.inf),
        ("metrics.test.top1", None),
        ("metrics.test.loss", "0.1"),
        ("cost.train_macs", 10**400),
        ("cost.macs_attention", -1),
        ("cost.bytes.compressed", "7"),
        ("cost.wall_seconds", -1.0),
    ],
)
def test_a_wrong_value_is_an_error_with_its_path(path, value):
    """Wrong types, values out of range, booleans for integers, and numbers that are not finite are errors."""
    made = record()
    if path == "sparsity.layers.0":
        made["sparsity"]["layers"][0] = value
    else:
        change(made, path, value)
    with pytest.raises(RecordError, match=f"^{path} ") as caught:
        records.validate(made)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("board.steps", 999, "board.fingerprint"),
        ("sparsity.nonzero", 999, "sparsity.nonzero"),
        ("sparsity.prunable", 999, "sparsity.prunable"),
        ("sparsity.measured", 0.91, "sparsity.measured"),
        ("metrics.test.top1", 0.91, "metrics.test.top1"),
        ("metrics.validation.correct", 1, "metrics.validation.top1"),
    ],
)
def test_contradicting_numbers_are_an_error(path, value, named):
    """A record that was edited in one place disagrees with itself in another."""
    with pytest.raises(RecordError, match=f"^{named} "):
        records.validate(change(record(), path, value))


def test_unknown_keys_and_nulls_in_optional_places_are_allowed():
    """A newer version may add keys, and an optional value may be null."""
    made = record(extra={"deep": [1, 2]}, method__mood="fine", metrics__test__top5=None, cost__macs_dense=None)
    assert records.validate(made) is made


@pytest.mark.parametrize("key", ["alive", "macs_dense", "macs_remaining"])
def test_optional_counts_of_a_layer_are_checked(key):
    """An optional count of a layer must be a whole number if it is there."""
    made = record()
    made["sparsity"]["layers"][1][key] = 7
    records.validate(made)
    made["sparsity"]["layers"][1][key] = "7"
    with pytest.raises(RecordError, match=rf"^sparsity\.layers\.1\.{key} must be a whole number"):
        records.validate(made)


@pytest.mark.parametrize("data", [None, [], "run", 3, True])
def test_only_an_object_is_a_record(data):
    """Any other JSON value is an error of one line."""
    with pytest.raises(RecordError, match="a record must be a JSON object"):
        records.validate(data)


def test_deep_nesting_is_an_error_without_recursion():
    """Ten thousand levels are an error like any other."""
    deep: list = []
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises(RecordError, match="nested deeper than 32 levels"):
        records.validate(record(hash="0" * 64) | {"extra": deep})


def paths_of(value, prefix=""):
    """Return every dotted path of nested objects."""
    here = [f"{prefix}{key}" for key in value]
    return here + [
        p for key, item in value.items() if isinstance(item, dict) for p in paths_of(item, f"{prefix}{key}.")
    ]


def test_the_canonical_record_lacks_exactly_the_listed_paths():
    """Lifecycle, hardware, seconds and peak memory are removed, nothing else, and the record itself stays unchanged."""
    made = record()
    before = copy.deepcopy(made)
    stripped = set(paths_of(made)) - set(paths_of(records.canonical(made)))
    blocks = {p for p in paths_of(made) if p.split(".")[0] in ("lifecycle", "hardware")}
    assert stripped == blocks | {"cost.wall_seconds", "cost.hook_seconds", "cost.peak_memory_bytes"}
    records.canonical(made)["board"]["recipe"]["lr"] = 9
    assert made == before


def test_dumps_is_sorted_indented_and_ends_with_a_newline():
    """The text does not depend on the order in which keys were set."""
    assert records.dumps({"b": 1, "a": {"d": 2, "c": 3}}) == '{\n  "a": {\n    "c": 3,\n    "d": 2\n  },\n  "b": 1\n}\n'


@pytest.mark.parametrize("value", [math.nan, math.inf, object(), {1, 2}])
def test_a_value_that_json_cannot_represent_is_an_error(value):
    """NaN, infinity and Python objects are errors and do not give an unreadable file."""
    with pytest.raises(RecordError, match="must be plain JSON"):
        records.dumps({"x": value})


def test_content_hash_is_sha256_of_compact_sorted_json():
    """The hash is recomputed from the documented text, and does not depend on the order of keys."""
    expected = hashlib.sha256(b'{"a":[1,0.5],"b":"x"}').hexdigest()
    assert records.content_hash({"b": "x", "a": [1, 0.5]}) == expected


def test_the_fingerprint_is_the_start_of_the_hash_and_ignores_itself():
    """The fingerprint does not change if a board contains it."""
    board = {"model": "m", "steps": 3}
    name = records.content_hash(board)[:12]
    assert records.fingerprint(board) == records.fingerprint({**board, "fingerprint": name}) == name


@given(st.floats(0, 1, exclude_max=True))
@settings(deadline=None)
def test_a_sparsity_is_printed_exactly(value):
    """The printed text reads back as the same number."""
    assert float(records.format_sparsity(value)) == value


def test_sparsities_print_as_people_write_them():
    """A sparsity has no trailing zeros and no rounding; None is printed as `dense`."""
    shown = [records.format_sparsity(value) for value in (0.995, 0.96875, 0.0, 0, 0.5, None)]
    assert shown == ["0.995", "0.96875", "0", "0", "0.5", "dense"]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(data=st.data())
@settings(deadline=None, max_examples=200)
def test_any_value_at_any_path_is_valid_or_an_error_of_pruneboard(data):
    """A record with an arbitrary value at any path is valid or raises a PruneboardError."""
    made = record()
    path = data.draw(st.sampled_from(paths_of(made)))
    change(made, path, data.draw(JSON_VALUES))
    with contextlib.suppress(PruneboardError):
        assert records.validate(made) is made


def test_left_out_files_are_counted_by_ending():
    """`data.left_out` is optional: at most 16 endings of plain letters, or `other`, each with a number of files."""
    for value in ({".gif": 2, "other": 1}, {f".x{n}": 1 for n in range(16)}):
        records.validate(change(record(), "data.left_out", value))
    for value in (
        [],
        {".gif": 0},
        {".gif": 1.0},
        {"gif": 1},
        {".<b>": 1},
        {".x" * 9: 1},
        {f".x{n}": 1 for n in range(17)},
    ):
        with pytest.raises(RecordError, match=r"^data\.left_out must be an object of at most 16 file endings"):
            records.validate(change(record(), "data.left_out", value))


@pytest.mark.parametrize("path", ["method.name", "method.distribution"])
@pytest.mark.parametrize(
    "value", ["magnitude (baseline)", "magnitude\u200b", "magnitude ", "\u200b", "mägnitude", "a\n"]
)
def test_a_name_that_looks_like_another_is_refused(path, value):
    """Names of methods and distributions contain no spaces, invisible characters or letters outside ASCII."""
    with pytest.raises(RecordError, match=f"{path} must be"):
        records.validate(change(record(), path, value))
