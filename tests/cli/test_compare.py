"""Tests `pruneboard compare`: tables on standard output, files next to the records, reproducible bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from fake_records import put, record
from project import ROOT
from pruneboard import report
from pruneboard.cli import compare, invoke
from pruneboard.errors import NotFoundError, StoreError, UsageError
from pruneboard.leaderboard import folders, literature
from report_cases import sample_records


def test_compare_prints_and_writes_the_same_boards(tmp_path):
    """The tables are printed and written to files, and skipped files are listed on standard error."""
    for made in sample_records():
        put(tmp_path, made)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").write_text("{")
    done = CliRunner().invoke(compare.command, [str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0
    built = folders.load([tmp_path])
    assert done.stdout == report.terminal(built) + "\n"
    assert done.stderr.startswith(f"skipped {tmp_path.name}/bad/run.json: is not JSON: ")
    assert done.stderr.count("\n") == 1
    for suffix, text in (("md", report.markdown(built)), ("csv", report.csv(built)), ("json", report.json(built))):
        assert (tmp_path / "leaderboard" / f"leaderboard.{suffix}").read_text() == text
    assert CliRunner().invoke(compare.command, [str(tmp_path)]).stdout == done.stdout


def test_json_and_out(tmp_path):
    """`--json` prints the document that is also written, and `--out` selects the folder."""
    folder = put(tmp_path / "results", record())
    arguments = [str(folder / "run.json"), "--json", "--out", str(tmp_path / "page")]
    done = CliRunner().invoke(compare.command, arguments, catch_exceptions=False)
    assert json.loads(done.stdout)["boards"][0]["rows"][0]["n"] == 1
    assert done.stdout == (tmp_path / "page" / "leaderboard.json").read_text()
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["digits"]


def test_tables_are_printed_before_writing_fails(tmp_path):
    """The tables are printed although the files cannot be written."""
    put(tmp_path, record())
    (tmp_path / "leaderboard").touch()
    done = CliRunner().invoke(compare.command, [str(tmp_path)])
    assert isinstance(done.exception, StoreError)
    assert "probmask" in done.stdout


def test_a_folder_without_records_is_an_error(tmp_path):
    """It raises NotFoundError, which exits with 4."""
    assert isinstance(CliRunner().invoke(compare.command, [str(tmp_path)]).exception, NotFoundError)
    assert invoke(["compare", str(tmp_path)]) == 4


def test_only_the_given_formats_are_written(tmp_path):
    """Formats are separated by commas, `none` writes nothing, and an unknown format is a usage error."""
    put(tmp_path, record())
    assert invoke(["compare", str(tmp_path), "--format", "none"]) == 0
    assert not (tmp_path / "leaderboard").exists()
    assert invoke(["compare", str(tmp_path), "--format", "md, csv"]) == 0
    assert {path.name for path in (tmp_path / "leaderboard").iterdir()} == {"leaderboard.md", "leaderboard.csv"}
    done = CliRunner().invoke(compare.command, [str(tmp_path), "--format", "pdf"])
    assert isinstance(done.exception, UsageError)
    assert "html, md, tex, csv, json, svg, png, or none; found 'pdf'" in str(done.exception)


def test_published_numbers_can_be_added_and_left_out(tmp_path):
    """`--published` adds the numbers of a file, and `--no-published` leaves out the included ones."""
    put(tmp_path / "results", record(data__name="imagenet", model__name="resnet50", board__prunable=25_502_912))
    own = tmp_path / "own.csv"
    line = dict.fromkeys(literature.COLUMNS, "") | {"method": "mine", "dataset": "imagenet"}
    line |= {"architecture": "resnet50", "sparsity_percent": "90", "top1_mean": "70", "track": "prune", "source": "a"}
    own.write_text(f"{','.join(line)}\n{','.join(line.values())}\n")

    def sources(*flags):
        arguments = ["compare", str(tmp_path / "results"), "--format", "html", *flags]
        assert invoke(arguments) == 0
        page = (tmp_path / "results" / "leaderboard" / "leaderboard.html").read_text()
        return "RAIVNLab/STR" in page, '"method":"mine"' in page

    assert sources() == (True, False)
    assert sources("--published", str(own)) == (True, True)
    assert sources("--published", str(own), "--no-published") == (False, True)


def test_compare_and_show_start_without_torch():
    """Neither torch nor a numerical library is imported before a command needs it."""
    code = "import sys, pruneboard.cli.compare, pruneboard.cli.show\n"
    code += "print(*sorted({'torch', 'timm', 'deepspeed', 'numpy', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=ROOT, text=True)
    assert done.stdout.strip() == ""


@pytest.mark.slow
def test_comparing_again_writes_the_same_bytes(tmp_path):
    """Processes with other hash seeds, including with existing output files, write the same bytes."""
    for made in sample_records():
        put(tmp_path / "results", made)
    written = []
    for seed, out in (("1", "results/leaderboard"), ("2", "results/leaderboard")):
        command = [sys.executable, "-m", "pruneboard", "compare", "results", "--out", out]
        subprocess.run(
            command, cwd=tmp_path, env=os.environ | {"PYTHONHASHSEED": seed}, check=True, capture_output=True
        )
        files = [path for path in (tmp_path / out).rglob("*") if path.is_file()]
        written.append({path.relative_to(tmp_path / out): path.read_bytes() for path in files})
    assert written[0] == written[1]
    assert {path.suffix for path in written[0]} == {".html", ".md", ".tex", ".csv", ".json", ".svg", ".png"}


def test_nothing_is_written_through_a_linked_leaderboard(tmp_path, capsys):
    """`leaderboard/` may not lead elsewhere; a folder that the user names with --out may be a link."""
    put(tmp_path / "results", record())
    outside = tmp_path / "outside"
    (outside / "figures").mkdir(parents=True)
    (outside / "leaderboard.md").write_text("theirs")
    (outside / "figures" / "photo.png").write_text("theirs")
    link = tmp_path / "results" / "leaderboard"
    link.symlink_to("../outside")
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    for command in ("compare", "verify"):
        assert invoke([command, str(tmp_path / "results")]) == 2
        assert "through a symbolic link, which is not followed" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before
    assert invoke(["compare", str(tmp_path / "results"), "--out", str(link)]) == 0
    assert (outside / "figures" / "photo.png").read_text() == "theirs"


def test_a_killed_compare_is_cleaned_up_by_the_next(tmp_path):
    """Temporary files of a killed command are removed by the same command; foreign files with such names are kept."""
    put(tmp_path, record())
    out = tmp_path / "leaderboard"
    script = f"""
import os, sys
from pruneboard.cli import invoke
real, left = os.replace, [3]
def replace(*paths):
    left[0] -= 1
    os._exit(9) if left[0] < 0 else real(*paths)
os.replace = replace
invoke(["compare", {str(tmp_path)!r}])
"""
    assert (
        subprocess.run([sys.executable, "-c", script], check=False, cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 9
    )
    assert len(list(out.rglob(".*.part"))) == 1
    (out / ".notes.part").write_text("mine")
    assert invoke(["compare", str(tmp_path)]) == 0
    assert [path.name for path in out.rglob(".*")] == [".notes.part"]
