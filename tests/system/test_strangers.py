"""Third-party distributions, built and installed as usual: one that works, and several with one fault each."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from environments import copied, layered

STRANGERS = Path(__file__).parents[1] / "strangers"
SMALL = ["--model", "test_resnet", "--limit-train", "142", "--epochs", "1", "--batch-size", "32", "--quiet", "--json"]
SMALL += ["--warmup-epochs", "0"]

BROKEN = {
    "raises": (
        "'raises' of stranger_raises 1.0 (stranger_raises:Raises)",
        "cannot be imported: RuntimeError: no accelerator of ours was found; fix or uninstall stranger_raises",
    ),
    "function": (
        "'function' of stranger_function 2.1 (stranger_function:prune)",
        "is not a subclass of pruneboard.api.Pruner but <function prune at 0x",
        "; fix or uninstall stranger_function",
    ),
    "thawed": (
        "'thawed' of stranger_thawed 0.4 (stranger_thawed:Thawed)",
        "is not decorated with @dataclass(frozen=True, kw_only=True); fix or uninstall stranger_thawed",
    ),
    "gmp": (
        "'gmp' is claimed by pruneboard ",
        " (pruneboard_gmp:GMP) and stranger_clash 3.0 (stranger_clash:GMP)",
        ": uninstall one of them",
    ),
    "gateless": (
        "'gateless' of stranger_gateless 0.1 (stranger_gateless:Gateless)",
        "does not define gate; fix or uninstall stranger_gateless",
    ),
}
"""Method -> parts of its one-line error: distribution, object, problem and remedy."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment with the distributions of `tests/strangers` installed from wheels, except those that cheat."""
    made = layered(tmp_path_factory.mktemp("environment"))
    trees, wheels = tmp_path_factory.mktemp("trees"), tmp_path_factory.mktemp("wheels")
    cheating = STRANGERS / "cheating"  # see test_cheating.py
    projects = [path.parent for path in sorted(STRANGERS.rglob("pyproject.toml")) if path.parent != cheating]
    copies = [str(copied(project, trees / project.name)) for project in projects]
    made.output(["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(wheels), *copies], trees)
    built = [str(wheel) for wheel in sorted(wheels.glob("*.whl"))]
    assert len(built) == len(projects)
    made.output(["pip", "install", "--quiet", *built], trees)
    return made


@pytest.fixture(scope="module")
def answers(environment, tmp_path_factory):
    """The answers of `run` for each broken method, of `list --check --json` and of `list --check`; and the folder."""
    folder = tmp_path_factory.mktemp("empty")
    runs = [["run", "-q", "--method", method, "--model", "test_resnet", "--sparsity", "0.9"] for method in BROKEN]
    lists = [["list", "--check", "--json"], ["list", "methods", "g*", "--check"]]
    return environment.answers(folder, *runs, *lists), folder


@pytest.fixture(scope="module")
def results(environment, tmp_path_factory):
    """A folder with runs of the third-party method and a control, next to the broken methods; and the records."""
    folder = tmp_path_factory.mktemp("work")
    records = {}
    for method, options in (("movement", ["--option", "end=0.5"]), ("magnitude", [])):
        done = environment.pruneboard(folder, "run", "--method", method, "--sparsity", "0.9", *options, *SMALL)
        assert done.returncode == 0, done.stderr
        records[method] = json.loads(done.stdout)
    return folder, records


@pytest.fixture(scope="module")
def compared(environment, results):
    """The output of `compare` for that folder; it also writes the page."""
    return environment.output(["pruneboard", "compare", "results"], results[0])


def test_the_environment_is_isolated(environment, tmp_path):
    """The distributions are installed in that environment only; the Python of the tests does not find them."""
    where = "import importlib.util; print(getattr(importlib.util.find_spec('movement_pruning'), 'origin', None))"
    origin = environment.output([environment.python, "-c", where], tmp_path).strip()
    assert Path(origin).is_relative_to(environment.variables["VIRTUAL_ENV"])
    assert environment.output([sys.executable, "-c", where], tmp_path).strip() == "None"


def test_all_are_listed_with_their_origin(environment, tmp_path):
    """`list` imports nothing, and shows built-in, third-party and broken methods with their origin."""
    rows = json.loads(environment.output(["pruneboard", "list", "--json"], tmp_path))
    found = {(row["method"], row["distribution"]): row for row in rows}
    assert found["movement", "movement_pruning"]["version"] == "0.3.1"
    assert found["movement", "movement_pruning"]["object"] == "movement_pruning:Movement"
    assert set(BROKEN) <= {method for method, _ in found}
    assert {"dense", "magnitude", "probmask"} <= {method for method, own in found if own == "pruneboard"}
    assert (
        found["gmp", "pruneboard"]["note"] == found["gmp", "stranger_clash"]["note"] == "claimed twice: uninstall one"
    )


def test_running_a_broken_method_is_refused_in_one_line(answers):
    """`run` exits with 2 and one line with distribution, object, problem and remedy; nothing is written."""
    for (method, words), (code, out, error) in zip(BROKEN.items(), answers[0], strict=False):
        assert (code, out, error.count("\n")) == (2, "", 1), method
        assert error.startswith(f"error: method {words[0]}")
        assert all(word in error for word in words), error
    assert not list(answers[1].iterdir())


def test_list_check_reports_broken_methods(answers):
    """`list --check` reports exactly the methods that cannot be used, and exits with 3."""
    code, out, error = answers[0][-2]
    rows = json.loads(out)
    problems = {row["method"]: row["problem"] for row in rows if row["problem"]}
    assert set(problems) == set(BROKEN)
    for method, words in BROKEN.items():
        assert all(word in problems[method] for word in words), problems[method]
    assert (code, error.count("\n")) == (3, 1)
    assert f"6 of {len(rows)} methods cannot be used" in error  # the name that is claimed twice counts as two


def test_problems_are_printed_below_the_table(answers):
    """Without `--json`, the table marks these methods, and each problem is printed once below it."""
    code, out, _ = answers[0][-1]
    assert code == 3
    assert re.search(r"gateless +stranger_gateless +0\.1 .* cannot be used$", out, re.MULTILINE)
    assert [line.split()[1] for line in out.splitlines() if line.startswith("method '")] == ["'gateless'", "'gmp'"]


def test_the_third_party_method_runs(results):
    """It trains with its own gate, keeps exactly the budget, and its record names its distribution."""
    record = results[1]["movement"]
    method, sparsity = record["method"], record["sparsity"]
    assert (record["status"], method["distribution"], method["version"]) == ("done", "movement_pruning", "0.3.1")
    assert method["options"] == {"lr": 0.01, "begin": 0.1, "end": 0.5}
    assert sparsity["kept"] == sparsity["prunable"] - round(0.9 * sparsity["prunable"])
    assert record["budget"]["harden_step"] == 2


def test_broken_methods_do_not_affect_others(results):
    """A built-in method runs, and starts from the same weights as the third-party method."""
    ours, theirs = results[1]["magnitude"], results[1]["movement"]
    assert ours["status"] == "done"
    assert ours["model"]["initial_sha256"] == theirs["model"]["initial_sha256"]
    assert ours["board"]["fingerprint"] == theirs["board"]["fingerprint"]


def test_the_third_party_method_is_compared(compared):
    """It has a row in the same table as the control, with its distribution."""
    assert compared.count("/ test_resnet / prune") == 1
    assert re.search(r"^movement movement_pruning +○ \d+\.\d\d \(1\)$", compared, re.MULTILINE)
    assert re.search(r"^magnitude \(baseline\) +○ \d+\.\d\d \(1\)$", compared, re.MULTILINE)


def test_the_page_shows_the_method_and_its_distribution(results, compared):
    """The HTML page and the CSV file show the method with its distribution and version."""
    board = results[0] / "results" / "leaderboard"
    page = (board / "leaderboard.html").read_text(encoding="utf-8")
    assert "movement_pruning 0.3.1" in page
    assert "movement,movement_pruning,0.3.1" in (board / "leaderboard.csv").read_text(encoding="utf-8")
