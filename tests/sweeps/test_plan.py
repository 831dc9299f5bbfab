"""From a board file to its runs: which, in which order, and the line that carries each of them out."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import click
import pytest

from fake_records import put, record
from pruneboard.cli.run import build_spec
from pruneboard.cli.run import command as run_command
from pruneboard.data import kept_open
from pruneboard.errors import DataError, UnknownNameError, UsageError
from pruneboard.experiment.prepare import prepare
from pruneboard.spec import RECIPE_FIELDS
from pruneboard.sweeps.board_file import BoardFile, Entry, Images, Points, Tuning, load_board
from pruneboard.sweeps.plan import Place, command, make_plan, specs, unknown_plan

DIGITS = Images(name="digits", train=142, test=355, classes=10, side=8, limit_train=142)
SMOKE = Path(__file__).parents[2] / "benchmarks" / "boards" / "digits-smoke.toml"


def board(*methods, **changes):
    """A board of two tracks and three seeds on a few digits."""
    values = {
        "name": "small",
        "title": "small",
        "models": ("test_resnet", "test_vit"),
        "data": DIGITS,
        "tracks": {"prune": Points((0.5, 0.9)), "supermask": Points((0.7,), "kaiming-normal")},
        "methods": methods or (Entry("magnitude"), Entry("random"), Entry("dense")),
        "seeds": (4, 2, 9),
        "training": {"epochs": 2, "batch_size": 32, "nesterov": True, "label_smoothing": 0.1},
    }
    return BoardFile(**values | changes)


def listed(described, **asked):
    """The runs of a board as (method, track, sparsity, model, seed)."""
    found = specs(described, Place(results="nowhere"), **asked)
    return [(s.method, s.track, s.sparsity, s.model, s.seed) for s in found]


# Which, and in which order


def test_the_dense_control_is_first_then_come_whole_seeds():
    """Every row can be compared from its first seed on."""
    found = listed(board())
    controls = [run for run in found if run[2] is None]
    assert found[: len(controls)] == controls
    assert {run[0] for run in controls} == {"dense"}
    assert [run[4] for run in found[len(controls) :]] == sorted(
        (run[4] for run in found[len(controls) :]), key=[4, 2, 9].index
    )


def test_there_is_a_run_for_each_point_of_each_track_model_and_seed():
    """Magnitude has two points on one track, random three on two, dense one row, times two models and three seeds."""
    found = listed(board())
    assert len(set(found)) == len(found) == (2 + 3 + 1) * 2 * 3
    assert {run[:3] for run in found if run[0] == "random"} == {
        ("random", "prune", 0.5),
        ("random", "prune", 0.9),
        ("random", "supermask", 0.7),
    }


def test_a_method_may_have_fewer_tracks_and_points():
    """Its own lists narrow the board's."""
    rows = listed(board(Entry("random", tracks=("prune",)), Entry("magnitude", sparsities=(0.9,))), seeds=[2])
    assert {run[:3] for run in rows} == {
        ("random", "prune", 0.5),
        ("random", "prune", 0.9),
        ("magnitude", "prune", 0.9),
    }


def test_only_some_methods_and_seeds():
    """What is asked for, in the board's order."""
    assert {run[0] for run in listed(board(), only=["dense", "random"])} == {"dense", "random"}
    assert [run[4] for run in listed(board(Entry("dense"), models=("test_vit",)), seeds=[9, 4])] == [4, 9]


def test_a_method_or_seed_that_the_board_has_not_is_refused():
    """With what it has."""
    with pytest.raises(UnknownNameError, match=r"method of board small.*'magnitud'.*did you mean magnitude"):
        listed(board(), only=["magnitud"])
    with pytest.raises(UsageError, match=r"no seed 3: its seeds are 4, 2, 9"):
        listed(board(), seeds=[4, 3])


def test_a_method_that_is_not_installed_is_refused():
    """As a run of it would be."""
    with pytest.raises(UnknownNameError, match=r"'magnitud'.*did you mean magnitude"):
        listed(board(Entry("magnitud")))


@pytest.mark.parametrize(
    ("entry", "tracks", "said"),
    [
        (Entry("magnitude", tracks=("supermask",)), None, r"track supermask of board small; it runs on prune"),
        (Entry("magnitude"), {"supermask": Points((0.5,))}, r"track supermask of board small; it runs on prune"),
        (
            Entry("random", tracks=("prune",), ablation="shuffled-mask"),
            None,
            r"with ablation shuffled-mask does not run on track prune of board small; it runs on supermask",
        ),
    ],
)
def test_a_track_that_a_method_does_not_run_on_is_refused(entry, tracks, said):
    """With the tracks it has; one that has none of the board's would be missing from it without a word."""
    described = board(entry, **({"tracks": tracks} if tracks else {}))
    with pytest.raises(UsageError, match=said):
        listed(described)


def test_an_ablation_is_a_row_of_the_supermask_track_alone():
    """On the prune track it would be the plain method again, under the ablation's name."""
    found = specs(board(Entry("random"), Entry("random", ablation="shuffled-mask")), Place(results="nowhere"))
    assert {s.track for s in found if s.ablation} == {"supermask"}
    assert len([s for s in found if s.ablation]) == 2 * 3


# What is done


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """The plan of one seed of a board of three rows, and its results folder."""
    results = tmp_path_factory.mktemp("results")
    return make_plan(ROWS, Place(results=str(results)), seeds=[2]), results


ROWS = board(Entry("magnitude"), Entry("dense"), models=("test_resnet",), tracks={"prune": Points((0.5, 0.9))})


def test_planning_writes_nothing_and_finds_nothing_done(planned):
    """In an empty folder everything is missing."""
    plan, results = planned
    assert not list(results.iterdir())
    assert [cell.label for cell in plan.cells] == [
        "dense, test_resnet, prune, seed 2",
        "magnitude at 0.5, test_resnet, prune, seed 2",
        "magnitude at 0.9, test_resnet, prune, seed 2",
    ]
    assert plan.counts() == {"missing": 3}
    assert plan.missing() == list(plan.cells)


def test_what_is_done_or_failed_is_not_run_again(planned, tmp_path):
    """Interrupted runs go on, failed ones only when asked, finished ones never."""
    plan, _ = planned
    for cell, status in zip(plan.cells, ("done", "diverged", "interrupted"), strict=True):
        made = record(
            cell.spec.method,
            cell.spec.sparsity,
            2,
            status=status,
            hash=cell.hash,
            data__name="digits",
            model__name="test_resnet",
        )
        assert put(tmp_path, made) == tmp_path / cell.folder.relative_to(plan.cells[0].spec.results)
    again = make_plan(ROWS, Place(results=str(tmp_path)), seeds=[2])
    assert again.counts() == {"diverged": 1, "done": 1, "interrupted": 1}
    assert [cell.status for cell in again.missing()] == ["interrupted"]
    assert [cell.status for cell in again.missing(retry_failed=True)] == ["diverged", "interrupted"]


def test_a_record_of_another_run_in_the_same_folder_is_not_taken_for_it(planned, tmp_path):
    """Eight digits of the hash are in the folder's name; all 64 have to agree."""
    plan, _ = planned
    first = plan.cells[0]
    other = first.hash[:8] + "0" * 56
    put(tmp_path, record("dense", None, 2, hash=other, model__name="test_resnet"))
    assert make_plan(ROWS, Place(results=str(tmp_path)), only=["dense"], seeds=[2]).counts() == {"missing": 1}


def test_without_images_it_is_unknown_what_is_done():
    """The runs can still be listed."""
    plan = unknown_plan(board(), Place(results="nowhere"))
    assert plan.counts() == {"unknown": 36}
    assert len(plan.missing()) == 36


@pytest.mark.parametrize(
    ("what", "said"), [("train", "1,000 training images"), ("test", "1,000 test images"), ("classes", "1,000 classes")]
)
def test_other_images_than_the_board_is_about_are_refused(what, said):
    """With what was declared and what was found."""
    described = dataclasses.replace(ROWS, data=dataclasses.replace(DIGITS, **{what: 1000}))
    with pytest.raises(DataError, match=rf"about {said}, and digits has \d+: point --data-dir"):
        make_plan(described, Place(results="nowhere"), only=["dense"])


def test_one_run_under_two_rows_is_refused():
    """An option left out and its default written down have one content hash, and one folder."""
    described = dataclasses.replace(ROWS, methods=(Entry("random"), Entry("random", {"allocation": "uniform"})))
    with pytest.raises(UsageError, match=r"two rows of board small ask for the same run, 'random at 0\.5, .*uniform"):
        make_plan(described, Place(results="nowhere"), seeds=[2])


# The line


def read_back(line):
    """The spec that `pruneboard run` makes of its line."""
    program, name, *arguments = shlex.split(line)
    assert (program, name) == ("pruneboard", "run")
    values = dict(run_command.make_context(name, arguments).params)
    for flag in ("dry_run", "as_json", "quiet"):
        assert values.pop(flag) is False
    assert values.pop("seeds") is None
    return build_spec(values, values.pop("seed"))


def one_of_each():
    """Runs of the smoke board, one per row and track, and of a board that leaves nothing at its default."""
    place = Place(results="some results", device="cpu")
    smoke = load_board(SMOKE)
    found = {(s.method, s.track, s.ablation): s for s in specs(smoke, place, seeds=[0])}
    rare = board(
        Entry("probmask", {"samples": 3, "travel": 60.5}, tuning=Tuning(trials=3, source="a paper's table 2; $HOME")),
        Entry("random", {"allocation": "erk"}, ("supermask",), ablation="redrawn-weights"),
        models=("test_resnet",),
        recipe="cifar",
        training={"epochs": 2, "batch_size": 32, "nesterov": False, "lr": 1e-05, "norm_batch": 16},
        stem="stock",
        precision="bf16",
    )
    return [*found.values(), *specs(rare, dataclasses.replace(place, data_dir="a b", procs=2), seeds=[9])]


def test_every_line_is_the_run_it_stands_for():
    """`pruneboard run` makes of it a run of the same content hash, in the same folder."""
    with kept_open():
        for spec in one_of_each():
            read = read_back(command(spec))
            assert read.tuning_trials == spec.tuning_trials
            assert read.tuning_source == spec.tuning_source
            job, _ = prepare(spec)
            again, _ = prepare(read)
            assert (again.hash, again.folder) == (job.hash, job.folder)
            assert again.base_record["tuning"] == job.base_record["tuning"]


def test_every_line_is_one_line():
    """A job of an array takes one line of the list."""
    for spec in one_of_each():
        assert "\n" not in command(spec)


def test_every_flag_of_the_training_is_a_flag_of_the_line():
    """Whatever field of a recipe a board changes, true and false told apart."""
    changed = {
        name: {bool: True, int: 7, float: 0.25, str: "none"}[kind]
        for name, kind in RECIPE_FIELDS.items()
        if name not in ("norm_batch", "image_size")
    }
    (spec, *_) = specs(board(training=changed), Place(results="nowhere"))
    assert read_back(command(spec)).overrides == changed
    (spec, *_) = specs(board(training={"nesterov": False}), Place(results="nowhere"))
    assert read_back(command(spec)).overrides == {"nesterov": False}


def test_a_line_that_is_wrong_would_be_seen():
    """The reader of lines above refuses what the command refuses."""
    with pytest.raises(click.UsageError):
        read_back("pruneboard run --method dense --model test_resnet --no-such-flag 1")
