"""Generate the tables and the figure of docs/speed.md from the measurements.

    python benchmarks/speed/page.py [pytest-benchmark.json ...]

If files are given, the data that the page needs is first extracted to `measured.json`. Text outside the generated
parts is not changed.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

MEASURED = Path(__file__).with_name("measured.json")
PAGE = Path(__file__).parents[2] / "docs" / "speed.md"
PACKAGES = ("torch", "torchvision", "timm", "deepspeed", "numpy", "scipy", "click")
CURVES = PAGE.with_name("speed-doubling.svg")
_PART = re.compile(r"<!-- measured: (\w+) -->\n.*?<!-- end -->", re.DOTALL)

Measured = Mapping[str, Any]


def trimmed(files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the data that the page needs from pytest-benchmark files of one machine, without host or user names."""
    machine = files[-1]["machine_info"]
    return {
        "machine": {
            "processor": machine["cpu"].get("brand_raw", machine["processor"]),
            "cores": machine["cpu"]["count"],
            "system": f"{machine['system']} {machine['machine']}",
            "python": machine["python_version"],
        },
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "date": files[-1]["datetime"][:10],
        "rows": [item["extra_info"] for found in files for item in found["benchmarks"] if item["extra_info"]],
    }


def page(text: str, measured: Measured) -> str:
    """Return `text` with every generated part replaced.

    Raises:
        KeyError: a marker names an unknown part.
    """
    return _PART.sub(lambda mark: f"<!-- measured: {mark[1]} -->\n{_PARTS[mark[1]](measured)}\n<!-- end -->", text)


def _machine(measured: Measured) -> str:
    machine, rows = measured["machine"], measured["rows"]
    packages = ", ".join(f"{name} {version}" for name, version in measured["packages"].items())
    threads = sorted({row["threads"] for row in rows if "threads" in row})
    where = f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}"
    rounds = [row["rounds"] for row in rows if "rounds" in row]
    how = f"{', '.join(map(str, threads))} thread, {min(rounds)} to {max(rounds)} rounds"
    return f"{where}; {packages}; {how}; {measured['date']}."


def _summary(measured: Measured) -> str:
    rows = [row for row in measured["rows"] if row.get("bound") is not None]
    missed = [f"{row['what']} against {row['against']}" for row in rows if not _met(row)]
    listed = "".join(f"\n* {name}" for name in missed)
    return f"{len(rows) - len(missed)} of {len(rows)} bounds are met." + (f" Missed:\n{listed}" if missed else "")


def _section(letter: str) -> Callable[[Measured], str]:
    def table(measured: Measured) -> str:
        rows = [_row(row) for row in measured["rows"] if row["section"] == letter]
        head = ("measurement", "compared with", "ours", "reference", "ratio (95 % interval)", "bound", "result")
        return _table(head, rows)

    return table


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    note = f"; {row['note']}" if row["note"] else ""
    notes = " · processor time" if row["clock"] == "processor" else ""
    return (
        f"{row['what']}{note}",
        f"{row['against']}{notes}",
        _amount(row, "ours"),
        _amount(row, "reference"),
        _ratio(row),
        _bound(row),
        "" if row["bound"] is None else "met" if _met(row) else "**missed**",
    )


def _amount(row: Mapping[str, Any], side: str) -> str:
    """Return the median time of a side, or its throughput if the row has a unit."""
    if row["unit"]:
        return f"{row[f'{side}_units'] / row[side]:,.0f} {row['unit']}"
    return seconds(row[side])


def seconds(value: float) -> str:
    """Format a time with three significant digits."""
    scale, unit = (1, "s") if value >= 1 else (1e3, "ms") if value >= 1e-3 else (1e6, "µs")
    return f"{value * scale:.3g} {unit}"


def _ratio(row: Mapping[str, Any]) -> str:
    if row["kind"] == "seconds":
        return f"{seconds(row['value'])} ({seconds(row['low'])} to {seconds(row['high'])})"
    sign = "x faster" if row["kind"] == "gain" else "x"
    return f"{row['value']:.3g}{sign} ({row['low']:.3g} to {row['high']:.3g})"


def _bound(row: Mapping[str, Any]) -> str:
    if row["bound"] is None:
        return ""
    if row["kind"] == "gain":
        return f"at least {row['bound']:g}x"
    return f"at most {row['bound']:g} s" if row["kind"] == "seconds" else f"at most {row['bound']:g}x"


def _met(row: Mapping[str, Any]) -> bool:
    return row["value"] >= row["bound"] if row["kind"] == "gain" else row["value"] <= row["bound"]


def _floor(measured: Measured) -> str:
    rows = []
    for row in (row for row in measured["rows"] if row["section"] == "floor"):
        parts = [row[name] for name in ("network", "arithmetic", "memory")]
        least = sum(parts)
        cells = [row["what"], *map(seconds, (row["seconds"], *parts, least)), f"{row['seconds'] / least:.2f}x"]
        rows.append(tuple(cells))
    return _table(("eight steps of", "ours", "network", "arithmetic", "memory", "lower bound", "ratio"), rows)


def _parts(measured: Measured) -> str:
    rows = [
        (f"{row['what']}: {name}", seconds(taken))
        for row in measured["rows"]
        for name, taken in row.get("parts", {}).items()
    ]
    return _table(("part", "median"), rows)


def _memory(measured: Measured) -> str:
    rows = []
    for row in (row for row in measured["rows"] if row["section"] == "memory"):
        more = (row["steps"] - row["dense"]) / row["weights"]
        rows.append(
            (
                row["what"],
                f"{row['steps'] / 2**20:.0f} MiB",
                f"{row['steps'] / row['dense']:.2f}x",
                f"{more:+.1f} B" if row["what"] != "dense" else "",
                f"{row['floor']:+d} B: {row['why']}" if row["why"] else "",
                f"{row['selecting'] / 2**20:.0f} MiB",
            )
        )
    return _table(("method", "two steps", "ratio to dense", "extra per weight", "lower bound", "mask selection"), rows)


def _doubling(measured: Measured) -> str:
    rows = []
    for row in (row for row in measured["rows"] if row["section"] == "doubling"):
        note = f", {row['note']}" if row["note"] else ""
        for place, (size, taken) in enumerate(zip(row["sizes"], row["seconds"], strict=True)):
            factor = row["doublings"][place - 1] if place else None
            within = "" if factor is None else "yes" if abs(factor / 2 - 1) <= 0.1 else "**no**"
            rows.append(
                (
                    f"{row['what']}{note}" if not place else "",
                    f"{size:,} {row['unit']}",
                    seconds(taken),
                    f"{factor:.2f}x" if factor else "",
                    within,
                )
            )
    return _table(("work", "size", "time", "relative to half the size", "within 10 % of 2"), rows)


def curves(measured: Measured) -> str:
    """Return an SVG with time against size, both relative to the smallest size, and the line of proportionality."""
    import altair as alt
    import vl_convert

    points = [
        {"work": row["what"].replace("`", ""), "size": size / row["sizes"][0], "time": taken / row["seconds"][0]}
        for row in measured["rows"]
        if row["section"] == "doubling"
        for size, taken in zip(row["sizes"], row["seconds"], strict=True)
    ]
    axes = {
        "x": alt.X("size:Q", title="size, relative to the smallest").scale(type="log", base=2),
        "y": alt.Y("time:Q", title="time, relative to the smallest").scale(type="log", base=2),
    }
    measured_lines = alt.Chart(alt.Data(values=points)).mark_line(point=True)
    proportion = alt.Chart(alt.Data(values=[{"size": end, "time": end} for end in (1, 8)]))
    chart = alt.layer(
        proportion.mark_line(strokeDash=[4, 4], color="gray").encode(**axes),
        measured_lines.encode(**axes, color=alt.Color("work:N", title=None).legend(labelLimit=400)),
    )
    return str(vl_convert.vegalite_to_svg(chart.properties(width=360, height=240).to_dict()))


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [tuple(head), *rows]
    if len(lines) == 1:
        return "Not part of this measurement."
    cut = [lines[0], tuple("---" for _ in lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in cut)


_PARTS: dict[str, Callable[[Measured], str]] = {
    "machine": _machine,
    "summary": _summary,
    **{letter: _section(letter) for letter in "abcdef"},
    "floor": _floor,
    "parts": _parts,
    "memory": _memory,
    "doubling": _doubling,
}


def main() -> None:
    """Write the page and its figure; with arguments, write `measured.json` first."""
    if len(sys.argv) > 1:
        found = trimmed([json.loads(Path(name).read_text(encoding="utf-8")) for name in sys.argv[1:]])
        MEASURED.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    CURVES.write_text(curves(measured), encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), measured), encoding="utf-8")


if __name__ == "__main__":
    main()
