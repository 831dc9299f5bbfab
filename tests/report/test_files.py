"""Tests writing a leaderboard to a folder."""

from __future__ import annotations

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
