"""Published records are consistent, edits contradict the hash or the log, and no value causes an error."""

from __future__ import annotations

import itertools
import json
import tracemalloc

import pytest

import verify_cases as cases
from fake_records import change
from pruneboard.artifacts.verification import consistency
from pruneboard.draws import key
from pruneboard.records.schema import RecordError, fingerprint, validate
from verify_cases import edit, failed, one_with, problems, published

HOSTILE = (None, True, -1, 10**30, 1e300, "x" * 50, [[]], {"a": {}})


def test_every_published_record_is_consistent():
    """No unmodified record breaks a rule, whatever its track, method, ablation or version."""
    assert published()
    for path, record in published():
        checks = [*consistency.check_record(record), *consistency.check_log(record, path.with_name(consistency.LOG))]
        assert [check for check in checks if check.status != "ok"] == [], path


@pytest.mark.parametrize(
    "path",
    [
        *("rules", "track", "seed", "board.scope", "board.precision", "sparsity.target"),
        *("method.name", "method.distribution", "method.version", "method.options.lr", "method.ablation"),
        *("model.name", "model.load_as", "model.create_args.num_classes", "model.stem", "model.init"),
        *("data.name", "data.sha256", "data.split_sha256", "data.limit_train", "data.mean", "data.test"),
        *("recipe.lr", "recipe.epochs", "recipe.augment", "recipe.val_fraction"),
    ],
)
def test_the_hash_covers_every_setting(path):
    """A changed setting under the old hash is found."""
    record = one_with("method.options.lr")
    change(record, path, 0.125 if path == "sparsity.target" else 77)
    assert "its fields hash to" in problems(record)["record.hash"]


@pytest.mark.parametrize(("name", "value"), [("left_out", {".gif": 2}), ("majority", 0.2), ("order_sha256", {})])
def test_what_decides_no_result_is_not_in_the_hash(name, value):
    """Files beside the images, the share of the largest class and the order of batches do not change the hash."""
    record = one_with("method.options.lr")
    record["data"][name] = value
    assert "record.hash" not in problems(record)


def test_an_unrecorded_sparsity_is_accepted():
    """If a method pruned without a requested sparsity, the hash cannot be recomputed and is not checked."""
    record = one_with("method.options.lr")
    record["sparsity"]["target"] = None
    assert "record.hash" not in problems(record)
    record["sparsity"]["keep"] = record["sparsity"]["prunable"]
    assert "record.hash" in problems(record)


@pytest.mark.parametrize(
    "values",
    [
        {"method__options__prune_at": 0.25},
        {"method__version": "9"},
        {"recipe__momentum": 0.5, "board__recipe__momentum": 0.5},
        {"seed": 1},
        {"data__split_sha256": "0" * 64},
        {"model__init": "pretrained", "board__init": "pretrained"},
    ],
    ids=str,
)
def test_settings_of_a_run_are_covered_by_the_hash(one, values):
    """Options, recipe, seed, data and initialization cannot be edited under the same content hash."""
    edit(one, **values)
    record = cases.record_of(one)
    edit(one, board__fingerprint=fingerprint(record["board"]))
    assert "record.hash" in failed(one, evaluate=False)


def test_a_seed_edited_with_its_hash_is_caught(one):
    """The seed determines every other seed, and which images are used for validation."""
    edit(one, seed=1)
    cases.rehash(one)
    assert failed(one) == {"record.seeds"}
    edit(one, seeds={name: key(1, name) for name in cases.record_of(one)["seeds"]})
    assert failed(one) == {"evaluation.data"}


def test_a_log_with_another_best_epoch_is_disputed(one):
    """The best epoch of the record must be the best in `metrics.jsonl`."""
    edit(one, metrics__best_validation__top1=1.0)
    assert failed(one, evaluate=False) == {"record.log"}
    (one / "metrics.jsonl").write_bytes(b"{}\n")
    assert failed(one, evaluate=False) == {"record.log"}


def leaves(value, path=()):
    """The paths of all values in a record, including blocks; of each list, those of the first two items."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for name, item in items:
        yield (*path, name)
        yield from leaves(item, (*path, name))


def test_no_value_causes_an_error(tmp_path):
    """Any value that the schema accepts, at any place, is checked without an exception, and in a short note."""
    record = one_with("cost.storage_bits.mask")
    log = tmp_path / consistency.LOG
    log.write_text('{"epoch": 8, "step": 160, "validation": {"top1": 0.5}}\n')
    checked = 0
    for number, path in enumerate(leaves(record)):
        for value in itertools.islice(itertools.cycle(HOSTILE), number % 4, number % 4 + 6):
            mutant = json.loads(json.dumps(record))
            parent = mutant
            for name in path[:-1]:
                parent = parent[name]
            parent[path[-1]] = value
            try:
                validate(mutant)
            except RecordError:
                continue
            assert all(len(note) < 5000 for note in problems(mutant).values())
            consistency.check_log(mutant, log)
            checked += 1
    assert checked > 200


def test_a_log_that_would_fill_the_memory_is_disputed(one):
    """A log of a few million values in one line, or of millions of lines, takes no multiple of its size in memory."""
    for content in (b"[" + b"{}," * 2**21 + b"{}]", b'{"epoch":1}\n' * 2**19):
        (one / consistency.LOG).write_bytes(content)
        tracemalloc.start()
        try:
            assert failed(one, evaluate=False) == {"record.log"}
            assert tracemalloc.get_traced_memory()[1] < 40 * 2**20
        finally:
            tracemalloc.stop()
