"""Tests the Markdown, CSV and JSON files: they can be parsed back to the same numbers."""

from __future__ import annotations

import csv
import io
import json

from leaderboard_cases import whole
from pruneboard import report
from report_cases import cells, failed_record, hostile_record, sample_records


def test_markdown_has_accuracy_by_sparsity():
    """The first table has one row per method and one column per operating point; the notes follow."""
    text = report.markdown(whole(sample_records()))
    section = text.split("## ")[2 if "recipe.lr = 0.2" in text.split("## ")[1] else 1]
    lines = [cells(line) for line in section.splitlines() if line.startswith("|")]
    assert lines[0] == ["method", "0.5", "0.9375", "0.995", "0.999"]
    grid = {line[0]: line[1:] for line in lines[2:5]}
    assert grid["probmask"][0] == "89.25 ± 0.19 (6) *"
    assert grid["probmask"][2] == "84.30 ± 0.19 (6, 1 failed) *"
    assert grid["magnitude (baseline)"] == ["88.00 ± 0.00 (3)", "83.62 ± 0.00 (3)", "83.05 ± 0.00 (3)", ""]
    assert grid["random (floor)"] == ["○ 50.00 (1)", "○ 50.00 (1)", "○ 50.00 (1)", "oom (1)"]
    assert "dense control: 95.25 ± 0.19 (6)" in section
    assert "off target: str at 0.9 has measured sparsity 0.9: ○ 90.00 (1)" in section
    assert "diverged: probmask at 0.995, seed 8: the run is diverged" in section
    assert "differs from the other boards with this data set, model and track in: recipe.lr = 0.1" in section


def test_markdown_tables_are_rectangular():
    """Every row of a table has as many cells as its header, even with hostile text."""
    text = report.markdown(whole([*sample_records(), hostile_record(), failed_record()]))
    for block in text.split("\n\n"):
        lines = [cells(line) for line in block.splitlines() if line.startswith("|")]
        assert len({len(line) for line in lines}) <= 1


def test_csv_contains_all_rows():
    """There is one line per row, with fractions in full precision."""
    built = whole(sample_records())
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


def test_json_contains_all_boards():
    """The document has a schema number and every field of every row."""
    built = whole(sample_records())
    document = json.loads(report.json(built))
    assert document["schema"] == 2
    for found, board in zip(document["boards"], built.boards, strict=True):
        assert found["fields"] == board.fields
        assert [row["top1"] and row["top1"]["mean"] for row in found["rows"]] == [
            row.top1 and row.top1.mean for row in board.rows
        ]
        assert found["rows"][0]["n"] == board.rows[0].n
