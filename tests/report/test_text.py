"""Boards and records as text: what is printed parses back, and hostile text stays text."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_records import change, put, record
from pruneboard import leaderboard, report
from pruneboard.cli import compare, show
from pruneboard.errors import NotFoundError, PruneboardError, StoreError
from pruneboard.leaderboard import folders
from pruneboard.records import schema as records
from pruneboard.records import store
from pruneboard.report import files, tables
from pruneboard.report.escaping import csv_text, markdown_text, printable

HOSTILE = "<script>alert(1)</script> | a\nb [bold red]x[/] \x1b[31m\u202e `c` =1+1 \ud800 *d* _e_ $f$"


def sample():
    """Return the records of one full board and a second, smaller one."""
    made = [record("dense", None, seed=s, top1=0.95 + s / 1000) for s in range(6)]
    for point in (0.5, 0.9375, 0.995):
        made += [record("probmask", point, seed=s, top1=0.94 - point / 10 + s / 1000) for s in range(6)]
        made += [record("magnitude", point, seed=s, top1=0.93 - point / 10) for s in range(3)]
        made += [record("random", point, top1=0.5)]
    made += [record("probmask", 0.995, seed=8, status="diverged"), record("random", 0.999, status="oom")]
    made += [record("str", 0.9, method__traits__hits_target=False), record(board__recipe__lr=0.2)]
    return made


def whole(made):
    """Return the leaderboard of some records."""
    made = list(made)
    return leaderboard.Leaderboard(boards=tuple(leaderboard.build_boards(made)), total=len(made))


def hostile():
    """Return a record with markup wherever a record may hold free text."""
    return record(
        HOSTILE,
        method__version="=1+1",
        method__distribution="@SUM(A1)",
        method__options={HOSTILE: HOSTILE},
        model__name=HOSTILE,
        data__name=HOSTILE,
        board__steps=HOSTILE,
        engine={HOSTILE: HOSTILE},
        lifecycle={"started": {HOSTILE: [HOSTILE]}},
        sparsity__collapsed=[HOSTILE],
        cost__macs_definition=HOSTILE,
    )


def failed():
    """Return a failed record with markup in its message."""
    made = record(HOSTILE, status="failed")
    made["error"] = {"kind": HOSTILE, "message": HOSTILE * 1000}
    return made


def every_report(made):
    """Return all the ways in which records can be printed."""
    built = whole(made)
    cards = "\n".join(report.render(report.summary(one), 100, color=False) for one in made)
    return (
        report.terminal(built, 100, color=False),
        report.markdown(built),
        report.csv(built),
        report.json(built),
        cards,
    )


def cells(line):
    """Return the cells of a Markdown table's line, unescaped."""
    return [cell.strip().replace("\\", "") for cell in line.replace("\\|", "¦").strip("|").split("|")]


def test_markdown_holds_accuracy_against_sparsity():
    """The first table has a method a line and an operating point a column, exactly as asked for."""
    text = report.markdown(whole(sample()))
    section = text.split("## ")[2 if "recipe.lr = 0.2" in text.split("## ")[1] else 1]
    lines = [cells(line) for line in section.splitlines() if line.startswith("|")]
    assert lines[0] == ["method", "0.5", "0.9375", "0.995", "0.999"]
    grid = {line[0]: line[1:] for line in lines[2:5]}
    assert grid["probmask"][0] == "89.25 ± 0.19 (6) *"
    assert grid["probmask"][2] == "84.30 ± 0.19 (6, 1 failed) *"
    assert grid["magnitude (baseline)"] == ["88.00 ± 0.00 (3)", "83.62 ± 0.00 (3)", "83.05 ± 0.00 (3)", ""]
    assert grid["random (floor)"] == ["○ 50.00 (1)", "○ 50.00 (1)", "○ 50.00 (1)", "oom (1)"]
    assert "dense control: 95.25 ± 0.19 (6)" in section
    assert "off target: str at 0.9 measures 0.9: ○ 90.00 (1)" in section
    assert "diverged: probmask at 0.995, seed 8: the run is diverged" in section
    assert "differs from the other boards of this data, model and track in: recipe.lr = 0.1" in section


def test_markdown_tables_are_rectangular():
    """Every line of a table has as many cells as its header, whatever stands in them."""
    text = report.markdown(whole([*sample(), hostile(), failed()]))
    for block in text.split("\n\n"):
        lines = [cells(line) for line in block.splitlines() if line.startswith("|")]
        assert len({len(line) for line in lines}) <= 1


def test_csv_parses_back_to_the_rows():
    """One line per row, in full precision, fractions as fractions."""
    built = whole(sample())
    lines = list(csv.DictReader(io.StringIO(report.csv(built))))
    rows = [(board, row) for board in built.boards for row in board.rows]
    assert len(lines) == len(rows)
    for line, (board, row) in zip(lines, rows, strict=True):
        assert (line["fingerprint"], line["method"]) == (board.fingerprint, row.method)
        assert line["target"] == ("" if row.target is None else repr(row.target))
        assert line["top1_mean"] == (repr(row.top1.mean) if row.top1 else "")
        assert line["drop_low"] == (repr(row.drop.low) if row.drop and row.drop.low is not None else "")
        assert [int(seed) for seed in line["seeds"].split()] == list(row.seeds)
        assert (int(line["n"]), line["label"], int(line["failed"])) == (row.n, row.label, len(row.failures))


def test_json_parses_back_to_the_boards():
    """The document has a schema number and every field of every row."""
    built = whole(sample())
    document = json.loads(report.json(built))
    assert document["schema"] == 2
    for found, board in zip(document["boards"], built.boards, strict=True):
        assert found["fields"] == board.fields
        assert [row["top1"] and row["top1"]["mean"] for row in found["rows"]] == [
            row.top1 and row.top1.mean for row in board.rows
        ]
        assert found["rows"][0]["n"] == board.rows[0].n


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_the_terminal_never_breaks_a_table(width):
    """At every usual width each row of a table is one line, whole, and within the width."""
    text = report.terminal(whole(sample()), width, color=False)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    heads = [line.split()[1:] for line in text.splitlines() if line.startswith("method")]
    points = [point for head in heads for point in head if re.fullmatch(r"0\.\d+", point)]
    assert points == ["0.9", "0.5", "0.9375", "0.995", "0.999"]


def test_a_narrow_terminal_names_the_columns_it_leaves_out():
    """Nothing is dropped in silence; a wide terminal shows all columns."""
    built = whole(sample())
    assert "wider, or in the files: " in report.terminal(built, 80, color=False)
    wide = report.terminal(built, 250, color=False)
    assert "wider, or in the files" not in wide
    assert "passes a step" in wide


def test_colors_are_used_only_when_asked_for(monkeypatch):
    """A pipe gets plain text."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    built = whole([record()])
    assert "\x1b[" in report.terminal(built, 80, color=True)
    assert "\x1b" not in report.terminal(built, 80)


def test_names_show_only_what_tells_rows_apart():
    """Version, package, options and number appear where two rows would else look alike."""
    made = [record("a"), record("b", method__options={"t": 1}), record("b", method__options={"t": 2})]
    made += [record("c"), record("c", hash="f" * 64), record("d"), record("d", method__version="0.2.0")]
    lines = report.markdown(whole(made)).splitlines()
    names = {cells(line)[0] for line in lines if line.startswith("|")}
    assert {"a", "b t=1", "b t=2", "c", "c #2", "d 0.1.0", "d 0.2.0"} <= names


def test_hostile_text_steers_neither_terminal_nor_page():
    """Escape sequences, markup, HTML, direction marks and lone surrogates from a record are inert or gone."""
    terminal, markdown, table, document, card = every_report([hostile(), failed()])
    for text in (terminal, markdown, table, document, card):
        text.encode()
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "[bold red]x[/]" in card
    assert "<script>" not in markdown
    assert markdown.count("\\[bold red\\]") == markdown.count("bold red")
    for line in csv.DictReader(io.StringIO(table)):
        assert line["version"] in ("'=1+1", "0.1.0")
        assert not any(value.startswith(("=", "+", "@")) for value in line.values())


@given(st.text())
@settings(deadline=None)
def test_cleaned_text_is_one_short_printable_line(text):
    """Whatever goes in, what comes out can be encoded, and is one line without control characters."""
    clean = printable(text, 50)
    assert len(clean) <= 50
    assert clean.isprintable() or not clean.isascii()
    assert len(clean.splitlines()) <= 1
    clean.encode()
    assert not csv_text(clean).startswith(("=", "+", "-", "@"))
    assert not set("<>") & set(markdown_text(clean))


def test_a_summary_says_what_was_asked_and_what_came_out():
    """A finished record shows target, counts, accuracies, cost, layers and provenance."""
    made = record("probmask", 0.995, seed=3, top1=0.9321)
    text = report.render(report.summary(made), 120, color=False)
    for fact in (
        "probmask at sparsity 0.995 on resnet20_cifar, digits, prune: done",
        "50 of 10,000 prunable",
        "top-1 93.21 %",
        "9,321 of 10,000 images",
        "one multiply-add is one MAC",
        "256 MiB",
        made["hash"],
    ):
        assert fact in text
    layer = next(line for line in text.splitlines() if line.startswith("layer1.0.conv1"))
    assert layer.split() == ["layer1.0.conv1", "8,000", "0", "1.0000"]
    assert "layer1.0.conv1" not in report.render(report.summary(made, layers=False), 120).split("Provenance")[1]


def test_a_summary_says_what_weights_still_have_a_part():
    """Effective sparsity, attention's products and costs by layer are shown where a record has them."""
    layers = [layer | {"alive": 7, "macs_dense": 64 * layer["n"]} for layer in record()["sparsity"]["layers"]]
    newer = {"sparsity__alive": 21, "sparsity__effective": 0.9979, "sparsity__layers": layers}
    made = record(cost__macs_attention=1234, cost__bytes__compressed=77, **newer)
    text = report.render(report.summary(made), 160, color=False)
    for fact in ("0.9979: 21 weights on a path from input to output", "1,234 multiply-adds more", "compressed 77"):
        assert fact in text
    line = next(line for line in text.splitlines() if line.startswith("layer1.0.conv1"))
    assert line.split() == ["layer1.0.conv1", "8,000", "0", "1.0000", "7", "512,000"]
    older = report.render(report.summary(record()), 160, color=False)
    assert "on a path" not in older
    assert "attention" not in older
    unknown = record(sparsity__effective=None, sparsity__effective_unknown="it uses cumsum")
    assert "unknown: it uses cumsum" in report.render(report.summary(unknown), 160, color=False)


def test_effective_sparsity_is_a_column_where_a_run_knows_it():
    """The board's table and its costs show it; a board of earlier records has no such column."""
    newer = [record("a", 0.9, seed, sparsity__effective=0.95) for seed in (0, 1)]
    (known,), (none,) = (leaderboard.build_boards(runs) for runs in (newer, [record()]))
    assert "effective" in tables.page(known).detail.headers
    assert "effective" not in tables.page(none).detail.headers


def test_a_summary_of_a_failure_gives_its_reason():
    """A record without results is shown with its error."""
    text = report.render(report.summary(record(status="oom")), 120, color=False)
    assert text.startswith("probmask at sparsity 0.9 on resnet20_cifar, digits, prune: oom\nRunError: the run is oom")


JSON_VALUES = st.recursive(  # what the store lets through: JSON without NaN
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)
PATHS = sorted({*records.KINDS, "board.steps", "board.recipe", "seeds.init", "metrics.best_validation.epoch"})


@given(path=st.sampled_from(PATHS), value=JSON_VALUES, status=st.sampled_from(["done", "failed"]))
@settings(deadline=None, max_examples=200)
def test_whatever_is_accepted_can_be_printed(path, value, status):
    """Any value that passes validation anywhere in a record goes through every report."""
    made = record(status=status)
    change(made, path, value)
    if path.startswith("board."):
        made["board"]["fingerprint"] = records.fingerprint(made["board"])
    try:
        records.validate(made)
    except PruneboardError:
        return
    for text in every_report([made, record("dense", None), record(seed=1)]):
        text.encode()


def test_compare_prints_and_writes_the_same_boards(tmp_path):
    """Tables on stdout, three files beside the records, skipped files on stderr."""
    for made in sample():
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


def test_compare_json_is_one_document_and_out_moves_the_files(tmp_path):
    """`--json` prints the same document that is written; `--out` says where."""
    folder = put(tmp_path / "results", record())
    arguments = [str(folder / "run.json"), "--json", "--out", str(tmp_path / "page")]
    done = CliRunner().invoke(compare.command, arguments, catch_exceptions=False)
    assert json.loads(done.stdout)["boards"][0]["rows"][0]["n"] == 1
    assert done.stdout == (tmp_path / "page" / "leaderboard.json").read_text()
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["digits"]


def test_compare_prints_before_a_read_only_folder_refuses(tmp_path):
    """The table is there although the files cannot be written."""
    put(tmp_path, record())
    (tmp_path / "leaderboard").touch()
    done = CliRunner().invoke(compare.command, [str(tmp_path)])
    assert isinstance(done.exception, StoreError)
    assert "probmask" in done.stdout


def test_compare_and_show_find_nothing(tmp_path):
    """No record is a NotFoundError, which ends a command with exit code 4."""
    for command, path in ((compare.command, tmp_path), (show.command, tmp_path), (show.command, tmp_path / "x")):
        assert isinstance(CliRunner().invoke(command, [str(path)]).exception, NotFoundError)


def test_show_prints_a_page_or_the_record(tmp_path):
    """A run folder and its run.json are the same; `--json` gives the record back."""
    made = record()
    folder = put(tmp_path, made)
    page = CliRunner().invoke(show.command, [str(folder)], catch_exceptions=False).stdout
    assert page == CliRunner().invoke(show.command, [str(folder / store.RUN)]).stdout
    assert page == report.render(report.summary(made)) + "\n"
    assert json.loads(CliRunner().invoke(show.command, [str(folder), "--json"]).stdout) == made


def test_show_names_a_damaged_record(tmp_path):
    """A file that is no record is one line with its name."""
    (tmp_path / "run.json").write_text("[]")
    done = CliRunner().invoke(show.command, [str(tmp_path)])
    assert str(done.exception) == f"{tmp_path / 'run.json'}: a record is a JSON object; found []"


def test_an_old_terminal_gets_letters_it_has(tmp_path):
    """Where standard output is ASCII, lines and signs are spelled in ASCII."""
    for seed in (0, 1):
        put(tmp_path, record(seed=seed))
    code = "import sys; from pruneboard.cli import compare; compare.command(sys.argv[1:])"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(store.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, check=True, env=environment)
    assert b"90.00 +- 0.00 (2)" in done.stdout


def test_the_paper_side_starts_without_torch():
    """Neither torch nor the numerical packages are imported until a command needs them."""
    code = "import sys, pruneboard.cli.compare, pruneboard.cli.show\n"
    code += "print(*sorted({'torch', 'timm', 'deepspeed', 'numpy', 'scipy'} & set(sys.modules)))"
    root = Path(store.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=root, text=True)
    assert done.stdout.strip() == ""


def test_comparing_again_writes_the_same_bytes(tmp_path):
    """A process with another hash seed, which finds the first one's files there, writes equal ones."""
    for made in sample():
        put(tmp_path / "results", made)
    written = []
    for seed, out in (("1", "results/leaderboard"), ("2", "elsewhere"), ("3", "results/leaderboard")):
        command = [sys.executable, "-m", "pruneboard", "compare", "results", "--out", out]
        subprocess.run(
            command, cwd=tmp_path, env=os.environ | {"PYTHONHASHSEED": seed}, check=True, capture_output=True
        )
        files = [path for path in (tmp_path / out).rglob("*") if path.is_file()]
        written.append({path.relative_to(tmp_path / out): path.read_bytes() for path in files})
    assert written[0] == written[1] == written[2]
    assert {path.suffix for path in written[0]} == {".html", ".md", ".tex", ".csv", ".json", ".svg", ".png"}


def test_figures_of_boards_that_are_gone_are_removed_and_nothing_else(tmp_path):
    """A figure is there for as long as its board is; what somebody else put beside it stays."""
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
