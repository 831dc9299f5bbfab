"""Tests `pruneboard show`."""

from __future__ import annotations

import json

from click.testing import CliRunner

from fake_records import put, record
from pruneboard import report
from pruneboard.cli import show
from pruneboard.errors import NotFoundError
from pruneboard.records import store


def test_show_prints_a_summary_or_the_record(tmp_path):
    """A run folder and its run.json are equivalent, and `--json` prints the record itself."""
    made = record()
    folder = put(tmp_path, made)
    page = CliRunner().invoke(show.command, [str(folder)], catch_exceptions=False).stdout
    assert page == CliRunner().invoke(show.command, [str(folder / store.RUN)]).stdout
    assert page == report.render(report.summary(made)) + "\n"
    assert json.loads(CliRunner().invoke(show.command, [str(folder), "--json"]).stdout) == made


def test_show_names_an_invalid_file(tmp_path):
    """A file that is not a record is reported in one line with its path."""
    (tmp_path / "run.json").write_text("[]")
    done = CliRunner().invoke(show.command, [str(tmp_path)])
    assert str(done.exception) == f"{tmp_path / 'run.json'}: a record must be a JSON object; found []"


def test_a_missing_record_is_an_error(tmp_path):
    """For a folder of runs, the message points to `pruneboard compare`."""
    for path, hint in ((tmp_path, True), (tmp_path / "missing", False)):
        done = CliRunner().invoke(show.command, [str(path)])
        assert isinstance(done.exception, NotFoundError)
        assert (f"`pruneboard compare {path}` reads a folder of many runs" in str(done.exception)) is hint
