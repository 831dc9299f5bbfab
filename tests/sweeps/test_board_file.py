"""Board files: what stands in one is what is loaded, and what cannot be meant is refused by name."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneboard import registry
from pruneboard.cli import invoke
from pruneboard.errors import UnknownNameError, UsageError
from pruneboard.spec import ABLATIONS, TRACKS, recipe_names
from pruneboard.sweeps.board_file import Points, Tuning, load_board

BOARDS = sorted((Path(__file__).parents[2] / "benchmarks" / "boards").glob("*.toml"))

SMALL = {
    "models": ["test_resnet"],
    "seeds": 2,
    "data": {"name": "digits", "train": 1442, "test": 355, "classes": 10, "side": 8},
    "tracks": {"prune": {"sparsities": [0.5, 0.9]}},
    "methods": [{"name": "dense"}, {"name": "magnitude", "options": {"prune_at": 0.25}, "tuning": {"trials": 3}}],
}
GONE = object()


def toml(value):
    """A value in TOML, tables in one line; JSON writes strings, numbers and truth values as TOML does."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(name)} = {toml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value, ensure_ascii=False)


def board(folder, values, name="small"):
    """Write a board file."""
    path = Path(folder, f"{name}.toml")
    path.write_text("".join(f"{toml(key)} = {toml(item)}\n" for key, item in values.items()), encoding="utf-8")
    return path


def small(path, value=GONE):
    """The values of a small board with one of them, at a dotted path, replaced or taken out."""
    values = copy.deepcopy(SMALL)
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    block = values
    for key in parents:
        block = block[key] if isinstance(block, list) else block.setdefault(key, {})
    if value is not GONE:
        block[last] = value
    else:
        del block[last]
    return values


def refusal(folder, values, kind=UsageError):
    """What loading says; it is one line that names the file."""
    path = board(folder, values)
    with pytest.raises(kind) as caught:
        load_board(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "FILE")


# What is refused


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("seed", "seeds"),
        ("data.trian", "train"),
        ("training.epoch", "epochs"),
        ("tracks.prune.sparsity", "sparsities"),
        ("methods.1.option", "options"),
        ("methods.1.tuning.trial", "trials"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(tmp_path, path, near):
    """At every level of the file, because a setting that is ignored would change what the board measures."""
    said = refusal(tmp_path, small(path, 1), UnknownNameError)
    assert f"'{path.rpartition('.')[2]}'" in said
    assert f"did you mean {near}" in said


def test_the_command_ends_with_the_code_of_wrong_usage(tmp_path, capsys):
    """A mistyped key is one line on standard error, and nothing is written."""
    results = tmp_path / "results"
    assert invoke(["sweep", str(board(tmp_path, small("precison", "fp32"))), "--results", str(results)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "did you mean precision" in err
    assert not results.exists()


@pytest.mark.parametrize(
    "path",
    [
        *("models", "seeds", "data", "tracks", "methods"),
        *("data.name", "data.train", "data.test", "data.classes", "data.side"),
        *("tracks.prune.sparsities", "methods.0.name"),
    ],
)
def test_a_missing_key_is_named(tmp_path, path):
    """A board says what it consists of: no list, count or size has a default."""
    assert path.rpartition(".")[2] in refusal(tmp_path, small(path))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("title", 5),
        ("models", "test_resnet"),
        ("models", [5]),
        ("models", []),
        ("seeds", 0),
        ("seeds", True),
        ("seeds", 1.5),
        ("seeds", []),
        ("seeds", [1, -1]),
        ("seeds", [1.0]),
        ("data", "digits"),
        ("data.train", 0),
        ("data.train", 1.5),
        ("data.train", True),
        ("data.limit_train", 0),
        ("training", [1]),
        ("training.epochs", "many"),
        ("training.epochs", 0),
        ("tracks", {}),
        ("tracks", [1]),
        ("tracks.prune", [0.5]),
        ("tracks.prune.sparsities", 0.5),
        ("tracks.prune.sparsities", []),
        ("tracks.prune.sparsities", [False]),
        ("tracks.prune.sparsities", ["0.5"]),
        ("methods", {"name": "dense"}),
        ("methods", []),
        ("methods.0", "dense"),
        ("methods.0.name", 5),
        ("methods.0.options", []),
        ("methods.0.options", False),
        ("methods.0.tracks", "prune"),
        ("methods.0.tracks", []),
        ("methods.0.sparsities", []),
        ("methods.0.tuning", 0),
        ("methods.0.tuning.trials", -1),
        ("methods.0.tuning.trials", 1.5),
        ("methods.0.tuning.source", "two\nlines"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(tmp_path, path, value):
    """Nothing is read as something that was not written, also where it is empty or false."""
    key = next(part for part in reversed(path.split(".")) if not part.isdigit())
    with pytest.raises(UsageError) as caught:
        load_board(board(tmp_path, small(path, value)))
    assert key in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [1, 1.0, 1.5, 90, -0.1, float("nan"), float("inf")])
def test_a_sparsity_is_a_fraction_below_1(tmp_path, value):
    """At a track and at a method."""
    text = board(tmp_path, small("tracks.prune.sparsities", [0.5, 7])).read_text()
    path = tmp_path / "small.toml"
    path.write_text(text.replace("7", str(value)))
    with pytest.raises(UsageError, match=r"\[tracks\.prune\] in .* in \[0, 1\)"):
        load_board(path)
    with pytest.raises(UsageError, match=r"number 2 in .* in \[0, 1\)"):
        load_board(board(tmp_path, small("methods.1.sparsities", [1.5])))


@pytest.mark.parametrize(
    ("path", "value", "twice"),
    [
        ("models", ["test_resnet", "test_resnet"], "test_resnet"),
        ("seeds", [3, 7, 3], "3"),
        ("tracks.prune.sparsities", [0.5, 0.9, 0.5], "0.5"),
        ("methods", [{"name": "dense"}, {"name": "gmp"}, {"name": "dense"}], "dense"),
        ("methods", [{"name": "gmp", "options": {"a": 1}}, {"name": "gmp", "options": {"a": 1}}], "gmp a=1"),
        ("methods.1.tracks", ["prune", "prune"], "prune"),
        ("methods.1.sparsities", [0.5, 0.5], "0.5"),
    ],
)
def test_what_stands_there_twice_is_refused(tmp_path, path, value, twice):
    """The same run under two rows would count twice."""
    assert f"has {twice} twice" in refusal(tmp_path, small(path, value))


def test_rows_of_one_method_may_differ_in_options_tracks_or_ablation(tmp_path):
    """Each set of options is a row of its own."""
    rows = [{"name": "a"}, {"name": "a", "options": {"b": 1}}, {"name": "a", "ablation": ABLATIONS[0]}]
    assert len(load_board(board(tmp_path, small("methods", rows))).methods) == 3


@pytest.mark.parametrize(
    ("path", "value", "near"),
    [
        ("scope", "al", "all"),
        ("recipe", "digit", "digits"),
        ("data.name", "digit", "digits"),
        ("tracks.prun", {"sparsities": [0.5]}, "prune"),
        ("methods.1.tracks", ["prun"], "prune"),
        ("methods.1.ablation", "shuffled-masks", "shuffled-mask"),
        ("training.augment", "crops", "crop"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(tmp_path, path, value, near):
    """A scope, recipe, data set, track, ablation or augmentation that does not exist."""
    with pytest.raises(UnknownNameError, match=f"did you mean {near}"):
        load_board(board(tmp_path, small(path, value)))


def test_an_unknown_data_set_is_refused_with_a_recipe_too(tmp_path):
    """Naming the training does not make the images exist."""
    assert "'digit'" in refusal(tmp_path, small("data.name", "digit") | {"recipe": "digits"}, UnknownNameError)


def test_a_track_that_the_board_has_not_is_refused(tmp_path):
    """A method cannot enter what nobody else is in."""
    assert "'supermask'" in refusal(tmp_path, small("methods.1.tracks", ["supermask"]), UnknownNameError)


def test_a_method_takes_only_operating_points_of_its_tracks(tmp_path):
    """Another one would stand in a column of its own."""
    said = refusal(tmp_path, small("methods.1.sparsities", [0.5, 0.95]))
    assert "0.95" in said
    assert "choose from 0.5, 0.9" in said
    tracks = {"prune": {"sparsities": [0.5]}, "supermask": {"sparsities": [0.9]}}
    rows = [{"name": "a", "tracks": ["prune"], "sparsities": [0.9]}]
    assert "choose from 0.5" in refusal(tmp_path, SMALL | {"tracks": tracks, "methods": rows})


@pytest.mark.parametrize("name", ["-x", ".x", "a b", "ä", "x" * 101])
def test_a_name_that_is_no_name_of_a_folder_is_refused(tmp_path, name):
    """A board's results lie in a folder of its name."""
    with pytest.raises(UsageError, match="names its board"):
        load_board(board(tmp_path, SMALL, name))


@pytest.mark.parametrize("content", [b"models = [", b"\xff", None])
def test_what_cannot_be_read_is_one_line(tmp_path, content):
    """No TOML, no text, no file."""
    path = tmp_path / "small.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"small\.toml") as caught:
        load_board(path)
    assert "\n" not in str(caught.value)


# What is loaded


def test_a_recipe_lies_beside_its_board(tmp_path, monkeypatch):
    """A path is read from the board file's folder, wherever the command runs; an absolute one as it is."""
    (tmp_path / "mine.toml").write_text("epochs = 3\nbatch_size = 32\nlr = 0.1\nimage_size = 16\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    beside = SMALL | {"recipe": "mine.toml"}
    assert load_board(board(tmp_path, beside)).recipe == str(tmp_path / "mine.toml")
    assert load_board(board(elsewhere, SMALL | {"recipe": "../mine.toml"})).recipe is not None
    absolute = str(tmp_path / "mine.toml")
    assert load_board(board(elsewhere, SMALL | {"recipe": absolute})).recipe == absolute
    with pytest.raises(UsageError, match=r"cannot read .*mine\.toml"):
        load_board(board(elsewhere, beside))


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_shipped_boards_load_and_their_methods_take_their_options(path):
    """Every method of a board of this repository is installed, and runs on the tracks it enters."""
    found = load_board(path)
    for entry in found.methods:
        info = registry.find(entry.name)
        cls = registry.load(info)
        assert {*entry.tracks} <= {*cls.tracks}
        assert {*(entry.tracks or found.tracks)} & {*cls.tracks}
        registry.build(info, 0.5 if registry.takes_sparsity(cls) else None, entry.options)


TEXTS = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8)
FRACTIONS = st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=4, unique=True)
OPTIONS = st.dictionaries(TEXTS, st.booleans() | st.integers(-9, 9) | st.floats(-1, 1) | TEXTS, max_size=3)


def some(draw, **values):
    """Some of these keys, each with a value drawn for it."""
    return {name: draw(value) for name, value in values.items() if draw(st.booleans())}


@st.composite
def boards(draw):
    """The values of a board file that says only what can be meant."""
    tracks = draw(st.lists(st.sampled_from(TRACKS), min_size=1, unique=True))
    points = {name: {"sparsities": draw(FRACTIONS)} | some(draw, init=TEXTS) for name in tracks}
    data = {"name": draw(st.sampled_from(["digits", "cifar10", "folder"]))}
    data |= {name: draw(st.integers(1, 10**7)) for name in ("train", "test", "classes", "side")}
    return {
        "models": draw(st.lists(TEXTS, min_size=1, max_size=3, unique=True)),
        "seeds": draw(st.integers(1, 9) | st.lists(st.integers(0, 2**40), min_size=1, max_size=4, unique=True)),
        "data": data | some(draw, limit_train=st.integers(1, 10**6)),
        "tracks": points,
        "methods": [draw(rows(name, points)) for name in draw(st.lists(TEXTS, min_size=1, max_size=3, unique=True))],
    } | some(
        draw,
        title=TEXTS,
        recipe=st.sampled_from(recipe_names()),
        training=st.fixed_dictionaries({"epochs": st.integers(1, 300), "lr": st.floats(0, 1)}),
        stem=TEXTS,
        precision=TEXTS,
        scope=st.just("all"),
    )


@st.composite
def rows(draw, name, tracks):
    """One method of a board."""
    entered = draw(st.lists(st.sampled_from(sorted(tracks)), min_size=1, unique=True))
    row = {"name": name, "tracks": entered} if draw(st.booleans()) else {"name": name}
    open_to = sorted({point for track in row.get("tracks", tracks) for point in tracks[track]["sparsities"]})
    return row | some(
        draw,
        options=OPTIONS,
        sparsities=st.lists(st.sampled_from(open_to), min_size=1, unique=True),
        ablation=st.sampled_from(ABLATIONS),
        tuning=st.fixed_dictionaries({"trials": st.integers(0, 99), "source": TEXTS}),
    )


@settings(deadline=None, max_examples=30)
@given(boards())
def test_what_is_written_is_what_is_loaded(values):
    """Every value of a board comes back as it stands in the file, and what is left out as its default."""
    with tempfile.TemporaryDirectory() as folder:
        found = load_board(board(folder, values))
    seeds = values["seeds"]
    assert found.title == values.get("title", "small")
    assert (found.name, list(found.models)) == ("small", values["models"])
    assert list(found.seeds) == (seeds if isinstance(seeds, list) else list(range(seeds)))
    assert {name: item for name, item in vars(found.data).items() if item is not None} == values["data"]
    assert found.tracks == {
        name: Points(tuple(sorted(track["sparsities"])), track.get("init")) for name, track in values["tracks"].items()
    }
    for entry, row in zip(found.methods, values["methods"], strict=True):
        assert (entry.name, entry.options) == (row["name"], row.get("options", {}))
        assert [type(item) for item in entry.options.values()] == [type(i) for i in row.get("options", {}).values()]
        assert list(entry.tracks) == row.get("tracks", [])
        assert list(entry.sparsities) == sorted(row.get("sparsities", []))
        assert entry.ablation == row.get("ablation")
        assert entry.tuning == Tuning(**row.get("tuning", {}))
    assert (found.recipe, found.stem) == (values.get("recipe"), values.get("stem"))
    assert found.training == values.get("training", {})
    assert (found.precision, found.scope) == (values.get("precision", "fp32"), "all")
