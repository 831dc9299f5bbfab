"""Records for tests of reports, including with hostile text, and all the ways to print them."""

from __future__ import annotations

from fake_records import record
from leaderboard_cases import whole
from pruneboard import report

HOSTILE = "<script>alert(1)</script> | a\nb [bold red]x[/] \x1b[31m\u202e `c` =1+1 \ud800 *d* _e_ $f$"


def sample_records():
    """Return the records of a complete board and of a second, smaller one."""
    made = [record("dense", None, seed=s, top1=0.95 + s / 1000) for s in range(6)]
    for point in (0.5, 0.9375, 0.995):
        made += [record("probmask", point, seed=s, top1=0.94 - point / 10 + s / 1000) for s in range(6)]
        made += [record("magnitude", point, seed=s, top1=0.93 - point / 10) for s in range(3)]
        made += [record("random", point, top1=0.5)]
    made += [record("probmask", 0.995, seed=8, status="diverged"), record("random", 0.999, status="oom")]
    made += [record("str", 0.9, method__traits__hits_target=False), record(board__recipe__lr=0.2)]
    return made


def hostile_record():
    """Return a record with markup in every field that can contain free text."""
    return record(
        HOSTILE,
        method__version="=1+1",
        method__distribution="@SUM(A1)",
        method__options={HOSTILE: HOSTILE},
        model__name=HOSTILE,
        data__name=HOSTILE,
        board__steps=HOSTILE,
        engine={HOSTILE: HOSTILE},
        lifecycle={"started": HOSTILE, HOSTILE: [HOSTILE]},
        sparsity__collapsed=[HOSTILE],
        cost__macs_definition=HOSTILE,
    )


def failed_record():
    """Return a failed_record record with markup in its message."""
    made = record(HOSTILE, status="failed_record")
    made["error"] = {"kind": HOSTILE, "message": HOSTILE * 1000}
    return made


def every_report(made):
    """Return the records as terminal tables, Markdown, CSV, JSON and summaries."""
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
    """Return the unescaped cells of a row of a Markdown table."""
    return [cell.strip().replace("\\", "") for cell in line.replace("\\|", "¦").strip("|").split("|")]
