"""Board files: every value is loaded as written, and an invalid or unknown one is refused with a clear message."""

from __future__ import annotations

import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from board_file_cases import BOARDS, SMALL, small, write_board
from pruneboard import registry
from pruneboard.errors import UnknownNameError, UsageError
from pruneboard.spec import ABLATIONS, TRACKS, recipe_names
from pruneboard.sweeps.board_file import BoardTrack, MethodTuning, load_board


def refusal(folder, values, kind=UsageError):
    """Load a board file that is refused; return the message, which must be one line and name the file."""
    path = write_board(folder, values)
    with pytest.raises(kind) as caught:
        load_board(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "FILE")


# Refused board files


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
    """At every level of the file, an unknown key is an error whose message suggests the closest known key."""
    message = refusal(tmp_path, small(path, 1), UnknownNameError)
    assert f"'{path.rpartition('.')[2]}'" in message
    assert f"did you mean {near}" in message


@pytest.mark.parametrize(
    "path",
    [
        *("models", "seeds", "data", "tracks", "methods"),
        *("data.name", "data.train", "data.test", "data.classes", "data.side"),
        *("tracks.prune.sparsities", "methods.0.name"),
    ],
)
def test_a_missing_key_is_named(tmp_path, path):
    """The lists, counts and sizes of a board have no defaults: a missing one is an error that names it."""
    assert path.rpartition(".")[2] in refusal(tmp_path, small(path))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("title", 5),
        ("models", "test_resnet"),
        ("models", [5]),
        ("models", []),
        ("seeds", 0),
        ("seeds", 10**9),
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
    """A value of the wrong type or range is refused in one line that names its key, even if it is empty or false."""
    key = next(part for part in reversed(path.split(".")) if not part.isdigit())
    with pytest.raises(UsageError) as caught:
        load_board(write_board(tmp_path, small(path, value)))
    assert key in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [1, 1.0, 1.5, 90, -0.1, float("nan"), float("inf")])
def test_a_sparsity_is_a_fraction_below_1(tmp_path, value):
    """A sparsity outside [0, 1) is refused, in a track and in a method."""
    text = write_board(tmp_path, small("tracks.prune.sparsities", [0.5, 7])).read_text()
    path = tmp_path / "small.toml"
    path.write_text(text.replace("7", str(value)))
    with pytest.raises(UsageError, match=r"\[tracks\.prune\] in .* in \[0, 1\)"):
        load_board(path)
    with pytest.raises(UsageError, match=r"number 2 in .* in \[0, 1\)"):
        load_board(write_board(tmp_path, small("methods.1.sparsities", [1.5])))


@pytest.mark.parametrize(
    ("path", "value", "duplicate"),
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
def test_duplicates_are_refused(tmp_path, path, value, duplicate):
    """A repeated model, seed, sparsity, track or method is an error that names the duplicate."""
    assert f"contains {duplicate} more than once" in refusal(tmp_path, small(path, value))


def test_long_lists_of_seeds_are_refused_at_once(tmp_path):
    """A list of more seeds than a count may have is refused, and the message does not repeat it."""
    text = refusal(tmp_path, small("seeds", list(range(100_000))))
    assert text == "seeds in FILE must be at most 10000; found 100000"


@pytest.mark.parametrize("title", ["two\nlines", "\u009b31mred", "\u202eback"])
def test_a_title_is_one_printable_line(tmp_path, title):
    """Escape codes, line breaks and direction marks in a title, which a sweep prints, are refused."""
    assert refusal(tmp_path, small("title", title)).startswith("title in FILE must be one line of printable text")


def test_rows_of_one_method_may_differ_in_options_tracks_or_ablation(tmp_path):
    """A method may appear several times with different options or ablations: each is a separate row."""
    rows = [{"name": "a"}, {"name": "a", "options": {"b": 1}}, {"name": "a", "ablation": ABLATIONS[0]}]
    assert len(load_board(write_board(tmp_path, small("methods", rows))).methods) == 3


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
    """An unknown scope, recipe, data set, track, ablation or augmentation is refused with the closest known name."""
    with pytest.raises(UnknownNameError, match=f"did you mean {near}"):
        load_board(write_board(tmp_path, small(path, value)))


def test_an_unknown_data_set_is_refused_even_with_a_recipe(tmp_path):
    """A board with an unknown data set is refused, even if it names its recipe."""
    assert "'digit'" in refusal(tmp_path, small("data.name", "digit") | {"recipe": "digits"}, UnknownNameError)


def test_a_track_that_the_board_does_not_have_is_refused(tmp_path):
    """A method can only name tracks of its board."""
    assert "'supermask'" in refusal(tmp_path, small("methods.1.tracks", ["supermask"]), UnknownNameError)


def test_a_method_takes_only_operating_points_of_its_tracks(tmp_path):
    """A sparsity of a method must be an operating point of a track that the method enters."""
    message = refusal(tmp_path, small("methods.1.sparsities", [0.5, 0.95]))
    assert "0.95" in message
    assert "choose from 0.5, 0.9" in message
    tracks = {"prune": {"sparsities": [0.5]}, "supermask": {"sparsities": [0.9]}}
    rows = [{"name": "a", "tracks": ["prune"], "sparsities": [0.9]}]
    assert "choose from 0.5" in refusal(tmp_path, SMALL | {"tracks": tracks, "methods": rows})


@pytest.mark.parametrize("name", ["-x", ".x", "a b", "ä", "x" * 101])
def test_a_name_that_is_not_safe_for_a_folder_is_refused(tmp_path, name):
    """A board file must have a plain name, because the results folder gets the same name."""
    with pytest.raises(UsageError, match="the name of a board file must match"):
        load_board(write_board(tmp_path, SMALL, name))


@pytest.mark.parametrize("content", [b"models = [", b"\xff", None])
def test_an_unreadable_file_is_reported_in_one_line(tmp_path, content):
    """A file that is missing, not text or not TOML is refused in one line that names it."""
    path = tmp_path / "small.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"small\.toml") as caught:
        load_board(path)
    assert "\n" not in str(caught.value)


# Loaded board files


def test_the_path_of_a_recipe_is_relative_to_the_board_file(tmp_path, monkeypatch):
    """A relative path is resolved against the folder of the board file, wherever the command runs."""
    (tmp_path / "mine.toml").write_text("epochs = 3\nbatch_size = 32\nlr = 0.1\nimage_size = 16\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    beside = SMALL | {"recipe": "mine.toml"}
    assert load_board(write_board(tmp_path, beside)).recipe == str(tmp_path / "mine.toml")
    assert load_board(write_board(elsewhere, SMALL | {"recipe": "../mine.toml"})).recipe is not None
    absolute = str(tmp_path / "mine.toml")
    assert load_board(write_board(elsewhere, SMALL | {"recipe": absolute})).recipe == absolute
    with pytest.raises(UsageError, match=r"cannot read .*mine\.toml"):
        load_board(write_board(elsewhere, beside))


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_shipped_boards_load_and_their_methods_take_their_options(path):
    """Every method of a board in this repository is installed, accepts its options and supports its tracks."""
    board = load_board(path)
    for method in board.methods:
        info = registry.find(method.name)
        cls = registry.load(info)
        assert {*method.tracks} <= {*cls.tracks}
        assert {*(method.tracks or board.tracks)} & {*cls.tracks}
        registry.build(info, 0.5 if registry.takes_sparsity(cls) else None, method.options)


TEXTS = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8)
FRACTIONS = st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=4, unique=True)
OPTIONS = st.dictionaries(TEXTS, st.booleans() | st.integers(-9, 9) | st.floats(-1, 1) | TEXTS, max_size=3)


def some(draw, **values):
    """Draw a subset of the keys, each with a value."""
    return {name: draw(value) for name, value in values.items() if draw(st.booleans())}


@st.composite
def boards(draw):
    """Draw the values of a valid board file."""
    tracks = draw(st.lists(st.sampled_from(TRACKS), min_size=1, unique=True))
    points = {name: {"sparsities": draw(FRACTIONS)} | some(draw, init=TEXTS) for name in tracks}
    data = {"name": draw(st.sampled_from(["digits", "cifar10", "folder"]))}
    data |= {name: draw(st.integers(1, 10**7)) for name in ("train", "test", "classes", "side")}
    return {
        "models": draw(st.lists(TEXTS, min_size=1, max_size=3, unique=True)),
        "seeds": draw(st.integers(1, 9) | st.lists(st.integers(0, 2**40), min_size=1, max_size=4, unique=True)),
        "data": data | some(draw, limit_train=st.integers(1, 10**6)),
        "tracks": points,
        "methods": [draw(methods(name, points)) for name in draw(st.lists(TEXTS, min_size=1, max_size=3, unique=True))],
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
def methods(draw, name, tracks):
    """Draw a method of a board with these tracks."""
    entered = draw(st.lists(st.sampled_from(sorted(tracks)), min_size=1, unique=True))
    method = {"name": name, "tracks": entered} if draw(st.booleans()) else {"name": name}
    allowed = sorted({point for track in method.get("tracks", tracks) for point in tracks[track]["sparsities"]})
    return method | some(
        draw,
        options=OPTIONS,
        sparsities=st.lists(st.sampled_from(allowed), min_size=1, unique=True),
        ablation=st.sampled_from(ABLATIONS),
        tuning=st.fixed_dictionaries({"trials": st.integers(0, 99), "source": TEXTS}),
    )


@settings(deadline=None, max_examples=30)
@given(boards())
def test_every_value_is_loaded_as_written(values):
    """Every value of a board file is loaded as written, and every omitted one as its default."""
    with tempfile.TemporaryDirectory() as folder:
        board = load_board(write_board(folder, values))
    seeds = values["seeds"]
    assert board.title == values.get("title", "small")
    assert (board.name, list(board.models)) == ("small", values["models"])
    assert list(board.seeds) == (seeds if isinstance(seeds, list) else list(range(seeds)))
    assert {name: item for name, item in vars(board.data).items() if item is not None} == values["data"]
    assert board.tracks == {
        name: BoardTrack(tuple(sorted(track["sparsities"])), track.get("init"))
        for name, track in values["tracks"].items()
    }
    for method, written in zip(board.methods, values["methods"], strict=True):
        assert (method.name, method.options) == (written["name"], written.get("options", {}))
        assert [type(item) for item in method.options.values()] == [
            type(item) for item in written.get("options", {}).values()
        ]
        assert list(method.tracks) == written.get("tracks", [])
        assert list(method.sparsities) == sorted(written.get("sparsities", []))
        assert method.ablation == written.get("ablation")
        assert method.tuning == MethodTuning(**written.get("tuning", {}))
    assert (board.recipe, board.stem) == (values.get("recipe"), values.get("stem"))
    assert board.training == values.get("training", {})
    assert (board.precision, board.scope) == (values.get("precision", "fp32"), "all")
