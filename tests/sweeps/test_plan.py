"""The plan of a sweep: its runs and their order, which of them are done, and the command line of each."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import click
import pytest

from fake_records import put, record
from pruneboard.cli import run as run_module
from pruneboard.data import dataset_cache
from pruneboard.errors import DataError, UnknownNameError, UsageError
from pruneboard.experiment.prepare import prepare
from pruneboard.spec import RECIPE_FIELDS
from pruneboard.sweeps.board_file import BoardData, BoardFile, MethodTuning, load_board
from pruneboard.sweeps.board_file import BoardMethod as Method
from pruneboard.sweeps.board_file import BoardTrack as Track
from pruneboard.sweeps.plan import MachineSettings, board_specs, make_plan, make_plan_without_data, run_command

DIGITS = BoardData(name="digits", train=142, test=355, classes=10, side=8, limit_train=142)
SMOKE = Path(__file__).parents[2] / "benchmarks" / "boards" / "digits-smoke.toml"
ELSEWHERE = MachineSettings(results="nowhere")


def board(*methods, **changes):
    """Return a board with two models, two tracks and three seeds on a few digits."""
    values = {
        "name": "small",
        "title": "small",
        "models": ("test_resnet", "test_vit"),
        "data": DIGITS,
        "tracks": {"prune": Track((0.5, 0.9)), "supermask": Track((0.7,), "kaiming-normal")},
        "methods": methods or (Method("magnitude"), Method("random"), Method("dense")),
        "seeds": (4, 2, 9),
        "training": {"epochs": 4, "batch_size": 32, "nesterov": True, "label_smoothing": 0.1},
    }
    return BoardFile(**values | changes)


def rows(described, **selection):
    """Return the runs of a board as (method, track, sparsity, model, seed)."""
    found = board_specs(described, ELSEWHERE, **selection)
    return [(s.method, s.track, s.sparsity, s.model, s.seed) for s in found]


def plan(described, machine=ELSEWHERE, **selection):
    """Return the plan of a board."""
    return make_plan(described, board_specs(described, machine, **selection))


# Runs and their order


def test_the_dense_control_is_first_then_one_seed_after_another():
    """All runs of the control come first; the others are ordered by seed, in the order of the board file."""
    found = rows(board())
    controls = [run for run in found if run[2] is None]
    assert found[: len(controls)] == controls
    assert {run[0] for run in controls} == {"dense"}
    assert [run[4] for run in found[len(controls) :]] == sorted(
        (run[4] for run in found[len(controls) :]), key=[4, 2, 9].index
    )


def test_there_is_a_run_for_each_point_of_each_track_model_and_seed():
    """Magnitude has two points on one track, random three on two, dense one row, for two models and three seeds."""
    found = rows(board())
    assert len(set(found)) == len(found) == (2 + 3 + 1) * 2 * 3
    assert {run[:3] for run in found if run[0] == "random"} == {
        ("random", "prune", 0.5),
        ("random", "prune", 0.9),
        ("random", "supermask", 0.7),
    }


def test_a_method_may_have_fewer_tracks_and_points():
    """The tracks and sparsities of a method narrow those of the board."""
    found = rows(board(Method("random", tracks=("prune",)), Method("magnitude", sparsities=(0.9,))), seeds=[2])
    assert {run[:3] for run in found} == {
        ("random", "prune", 0.5),
        ("random", "prune", 0.9),
        ("magnitude", "prune", 0.9),
    }


def test_methods_and_seeds_can_be_selected():
    """Only the selected methods and seeds are planned, in the order of the board."""
    assert {run[0] for run in rows(board(), only=["dense", "random"])} == {"dense", "random"}
    assert [run[4] for run in rows(board(Method("dense"), models=("test_vit",)), seeds=[9, 4])] == [4, 9]


def test_a_method_or_seed_that_the_board_does_not_have_is_refused():
    """A selected method or seed that the board does not have is refused with the ones that it has."""
    with pytest.raises(UnknownNameError, match=r"method of board small.*'magnitud'.*did you mean magnitude"):
        rows(board(), only=["magnitud"])
    with pytest.raises(UsageError, match=r"no seed 3: its seeds are 4, 2, 9"):
        rows(board(), seeds=[4, 3])


def test_a_board_with_more_runs_than_memory_holds_is_refused():
    """The product of models, operating points and seeds is limited before any run is planned."""
    points = {"prune": Track(tuple(number / 1000 for number in range(999)))}
    with pytest.raises(UsageError, match=r"board small has 19,980,000 runs; at most 100,000 are planned"):
        rows(board(Method("magnitude"), tracks=points, seeds=tuple(range(10_000))))


def test_a_method_that_is_not_installed_is_refused():
    """A board with a method that is not installed is refused with the closest installed name."""
    with pytest.raises(UnknownNameError, match=r"'magnitud'.*did you mean magnitude"):
        rows(board(Method("magnitud")))


@pytest.mark.parametrize(
    ("method", "tracks", "message"),
    [
        (Method("magnitude", tracks=("supermask",)), None, r"track supermask of board small; it runs on prune"),
        (
            Method("magnitude"),
            {"supermask": Track((0.5,))},
            r"track supermask of board small; it runs on prune",
        ),
        (
            Method("random", tracks=("prune",), ablation="shuffled-mask"),
            None,
            r"with ablation shuffled-mask does not run on track prune of board small; it runs on supermask",
        ),
    ],
)
def test_a_track_that_a_method_does_not_run_on_is_refused(method, tracks, message):
    """A method is refused on an unsupported track, even if the board has none of its tracks, with those it supports."""
    described = board(method, **({"tracks": tracks} if tracks else {}))
    with pytest.raises(UsageError, match=message):
        rows(described)


def test_an_ablation_is_a_row_of_the_supermask_track_only():
    """An ablation makes rows on the supermask track, even if the method also supports the prune track."""
    found = board_specs(board(Method("random"), Method("random", ablation="shuffled-mask")), ELSEWHERE)
    assert {s.track for s in found if s.ablation} == {"supermask"}
    assert len([s for s in found if s.ablation]) == 2 * 3


# Status of the records


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """Return the plan for one seed of a board with three rows, and its empty results folder."""
    results = tmp_path_factory.mktemp("results")
    return plan(ROWS, MachineSettings(results=str(results)), seeds=[2]), results


ROWS = board(Method("magnitude"), Method("dense"), models=("test_resnet",), tracks={"prune": Track((0.5, 0.9))})


def test_planning_writes_nothing(planned):
    """With an empty results folder all runs are missing, and planning leaves it empty."""
    found, results = planned
    assert not list(results.iterdir())
    assert [run.label for run in found.runs] == [
        "dense, test_resnet, prune, seed 2",
        "magnitude at 0.5, test_resnet, prune, seed 2",
        "magnitude at 0.9, test_resnet, prune, seed 2",
    ]
    assert found.counts() == {"missing": 3}
    assert found.missing() == list(found.runs)


def test_finished_and_failed_runs_are_not_repeated(planned, tmp_path):
    """Interrupted runs are executed again, failed ones only on request, finished ones never."""
    empty, _ = planned
    for run, status in zip(empty.runs, ("done", "diverged", "interrupted"), strict=True):
        made = record(
            run.spec.method,
            run.spec.sparsity,
            2,
            status=status,
            hash=run.hash,
            data__name="digits",
            model__name="test_resnet",
        )
        assert put(tmp_path, made) == tmp_path / run.folder.relative_to(run.spec.results)
    found = plan(ROWS, MachineSettings(results=str(tmp_path)), seeds=[2])
    assert found.counts() == {"diverged": 1, "done": 1, "interrupted": 1}
    assert [run.status for run in found.missing()] == ["interrupted"]
    assert [run.status for run in found.missing(retry_failed=True)] == ["diverged", "interrupted"]


def test_a_record_with_the_same_short_hash_is_not_mistaken_for_the_run(planned, tmp_path):
    """The folder name contains 8 digits of the hash, but a run is done only if all 64 digits agree."""
    empty, _ = planned
    first = empty.runs[0]
    other = first.hash[:8] + "0" * 56
    put(tmp_path, record("dense", None, 2, hash=other, model__name="test_resnet"))
    assert plan(ROWS, MachineSettings(results=str(tmp_path)), only=["dense"], seeds=[2]).counts() == {"missing": 1}


def test_without_its_data_a_board_is_listed_with_unknown_status():
    """Without the data set all runs are listed as missing, with the status `unknown`."""
    found = make_plan_without_data(board(), board_specs(board(), ELSEWHERE))
    assert found.counts() == {"unknown": 36}
    assert len(found.missing()) == 36


@pytest.mark.parametrize(
    ("what", "message"),
    [("train", "1,000 training images"), ("test", "1,000 test images"), ("classes", "1,000 classes")],
)
def test_a_data_set_that_differs_from_the_board_file_is_refused(what, message):
    """A different number of images or classes is refused, with the stated and the found number."""
    described = dataclasses.replace(ROWS, data=dataclasses.replace(DIGITS, **{what: 1000}))
    with pytest.raises(DataError, match=rf"states {message}, but digits has \d+: point --data-dir"):
        plan(described, only=["dense"])


def test_two_rows_with_the_same_run_are_refused():
    """A row that states the default of an option is the same run as one that omits it, which is refused."""
    described = dataclasses.replace(ROWS, methods=(Method("random"), Method("random", {"allocation": "uniform"})))
    with pytest.raises(UsageError, match=r"two rows of board small are the same run, 'random at 0\.5, .*uniform"):
        plan(described, seeds=[2])


# Command lines


def read_back(line):
    """Return the spec that `pruneboard run` builds from a command line."""
    program, name, *arguments = shlex.split(line)
    assert (program, name) == ("pruneboard", "run")
    values = dict(run_module.command.make_context(name, arguments).params)
    for flag in ("dry_run", "as_json", "quiet"):
        assert values.pop(flag) is False
    assert values.pop("seeds") is None
    return run_module.build_spec(values, values.pop("seed"))


def one_of_each():
    """Return specs of the smoke board, one for each method and track, and of a board without any default value."""
    machine = MachineSettings(results="some results", device="cpu")
    smoke = load_board(SMOKE)
    found = {(s.method, s.track, s.ablation): s for s in board_specs(smoke, machine, seeds=[0])}
    rare = board(
        Method(
            "probmask", {"samples": 3, "travel": 60.5}, tuning=MethodTuning(trials=3, source="a paper's table 2; $HOME")
        ),
        Method("random", {"allocation": "erk"}, ("supermask",), ablation="redrawn-weights"),
        models=("test_resnet",),
        recipe="cifar",
        training={"epochs": 2, "batch_size": 32, "nesterov": False, "lr": 1e-05, "norm_batch": 16},
        stem="stock",
        precision="bf16",
    )
    return [*found.values(), *board_specs(rare, dataclasses.replace(machine, data_dir="a b", procs=2), seeds=[9])]


def test_every_command_line_executes_the_planned_run():
    """`pruneboard run` builds from the line a run with the same content hash, folder and tuning."""
    with dataset_cache():
        for spec in one_of_each():
            read = read_back(run_command(spec))
            assert read.tuning_trials == spec.tuning_trials
            assert read.tuning_source == spec.tuning_source
            job, _ = prepare(spec)
            again, _ = prepare(read)
            assert (again.hash, again.folder) == (job.hash, job.folder)
            assert again.base_record["tuning"] == job.base_record["tuning"]


def test_every_command_is_one_line():
    """A command contains no line break, because a task of an array job reads one line."""
    for spec in one_of_each():
        assert "\n" not in run_command(spec)


def test_every_recipe_field_of_a_board_is_a_flag_of_the_command():
    """Every recipe field that a board changes is in the command line, booleans with either value."""
    changed = {
        name: {bool: True, int: 7, float: 0.25, str: "none"}[kind]
        for name, kind in RECIPE_FIELDS.items()
        if name not in ("norm_batch", "image_size")
    }
    (spec, *_) = board_specs(board(training=changed), ELSEWHERE)
    assert read_back(run_command(spec)).overrides == changed
    (spec, *_) = board_specs(board(training={"nesterov": False}), ELSEWHERE)
    assert read_back(run_command(spec)).overrides == {"nesterov": False}


def test_read_back_rejects_an_invalid_command():
    """The helper `read_back` rejects a command line that `pruneboard run` rejects."""
    with pytest.raises(click.UsageError):
        read_back("pruneboard run --method dense --model test_resnet --no-such-flag 1")
