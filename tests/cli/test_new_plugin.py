"""`pruneboard new-plugin`: what it prints, and that an invalid folder is refused."""

from __future__ import annotations

import shlex

import pytest

from pruneboard.cli import invoke, load_command


def test_the_next_steps_are_printed(capfd, tmp_path, monkeypatch):
    """The command prints the path of the method and three commands, each of which exists with its flags."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my work").mkdir()
    assert invoke(["new-plugin", "mine", "--path", "my work"]) == 0
    first, _, *commands = capfd.readouterr().out.splitlines()
    assert first == "wrote my work/pruneboard-mine; the method is src/pruneboard_mine.py. Next:"
    install, check, train = map(shlex.split, commands)
    assert install == ["pip", "install", "-e", "my work/pruneboard-mine[test]"]
    assert check[:3] == ["pruneboard", "check", "mine"]
    assert check[3:] == ["&&", "python", "-m", "pytest", "my work/pruneboard-mine"]
    assert load_command("run").make_context("run", train[2:]).params["method"] == "mine"


@pytest.mark.parametrize("place", ["nowhere", "file"])
def test_an_invalid_parent_folder_is_refused(capfd, tmp_path, place):
    """`--path` must be an existing folder; the error is one line that names the flag."""
    (tmp_path / "file").touch()
    assert invoke(["new-plugin", "mine", "--path", str(tmp_path / place)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "choose another folder with --path" in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
