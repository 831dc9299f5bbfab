"""Tests writing a leaderboard to a folder."""

from __future__ import annotations

import json

import pytest

from fake_records import put, record
from leaderboard_cases import whole
from pruneboard import report
from pruneboard.errors import StoreError
from pruneboard.leaderboard import folders
from pruneboard.report import files


def test_only_outdated_figures_are_deleted(tmp_path):
    """The figure of a board that does not exist any more is deleted; other files in the folder are kept."""
    put(tmp_path / "old", record())
    put(tmp_path / "new", record(board__recipe__lr=0.2))
    out = tmp_path / "out"
    files.write_leaderboard(folders.load([tmp_path / "old"]), out, ["svg"])
    (first,) = (out / "figures").iterdir()
    (out / "figures" / "mine.svg").write_text("")
    files.write_leaderboard(folders.load([tmp_path / "new"]), out, ["svg"])
    names = {path.name for path in (out / "figures").iterdir()}
    assert len(names) == 2
    assert "mine.svg" in names
    assert first.name not in names


def test_each_format_is_a_file(tmp_path):
    """Texts are named `leaderboard.<format>`, figures are in `figures/`, and all written paths are returned."""
    leaderboard = whole([record()])
    written = files.write_leaderboard(leaderboard, tmp_path)
    assert sorted(written) == sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert {path.suffix.removeprefix(".") for path in written} == set(files.FORMATS)
    assert (tmp_path / "leaderboard.md").read_text(encoding="utf-8") == report.markdown(leaderboard)
    assert (tmp_path / "leaderboard.tex").read_text(encoding="utf-8") == report.latex(leaderboard)


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path):
    """Nothing is written in this case."""
    (tmp_path / "out").write_text("")
    with pytest.raises(StoreError):
        files.write_leaderboard(whole([record()]), tmp_path / "out", ["md"])
    assert (tmp_path / "out").read_text() == ""


def test_a_figure_that_no_report_wrote_is_kept(tmp_path):
    """A picture with a name like that of an outdated figure stays, unless the manifest of the last report lists it."""
    figure = tmp_path / "figures" / f"digits-resnet20_cifar-prune-{'a' * 12}.png"
    figure.parent.mkdir()
    figure.write_text("theirs")
    files.write_leaderboard(whole([record()]), tmp_path, ["svg"])
    files.write_leaderboard(whole([record(board__recipe__lr=0.2)]), tmp_path, ["svg"])
    assert figure.read_text() == "theirs"


def test_a_manifest_names_only_figures_in_its_folder(tmp_path):
    """A manifest from elsewhere cannot cause other files to be deleted, and a damaged one causes nothing."""
    names = [f"../mine-{'a' * 12}.png", "../mine.txt", "mine.png", None, f"folder-{'a' * 12}.png"]
    (tmp_path / "figures" / names[-1]).mkdir(parents=True)
    for name in names[:3]:
        (tmp_path / "figures" / name).write_text("mine")
    for content in (json.dumps({"figures": names}), "[]", "{", '{"figures": 1}'):
        (tmp_path / files.MANIFEST).write_text(content)
        files.write_leaderboard(whole([record()]), tmp_path, ["svg"])
        assert all((tmp_path / "figures" / name).exists() for name in names if name)


def test_figures_of_other_formats_stay_listed(tmp_path):
    """A figure written before in another format is deleted once its board is gone."""
    files.write_leaderboard(whole([record()]), tmp_path, ["png"])
    files.write_leaderboard(whole([record()]), tmp_path, ["svg"])
    assert {path.suffix for path in (tmp_path / "figures").iterdir()} == {".svg", ".png"}
    files.write_leaderboard(whole([record(board__recipe__lr=0.2)]), tmp_path, ["svg"])
    (left,) = (tmp_path / "figures").iterdir()
    assert json.loads((tmp_path / files.MANIFEST).read_text()) == {"figures": [left.name]}


def test_figures_behind_a_link_are_refused(tmp_path):
    """Nothing is written if `figures/` leads out of the folder, and nothing outside changes."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / f"mine-{'a' * 12}.png").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "figures").symlink_to(outside)
    with pytest.raises(StoreError, match="symbolic link"):
        files.write_leaderboard(whole([record()]), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["figures"]
    assert [path.name for path in outside.iterdir()] == [f"mine-{'a' * 12}.png"]
