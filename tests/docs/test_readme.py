"""The claims of the Markdown pages: commands parse, examples run, tables equal the code, links have targets."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shlex
from pathlib import Path

import pytest

import pruneboard
from project import ROOT, blocks, text
from pruneboard import registry, report
from pruneboard.api import Traits
from pruneboard.cli import COMMANDS, INTERRUPTED, load_command
from pruneboard.cli.run import build_spec, seed_list
from pruneboard.errors import PruneboardError
from pruneboard.leaderboard import folders
from runs import run

PAGES = [
    *(
        ROOT / name
        for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "plugins/README.md", "results/README.md")
    ),
    *sorted((ROOT / "docs").glob("*.md")),
]
OTHERS_FLAGS = {
    "--help", "--nproc-per-node", "--no_local_rank", "--ntasks-per-node", "--gpus-per-task", "--distribution", "--sizes"
}  # fmt: skip
"""Flags of other tools that the pages show, and `--help`, which click adds to every command."""

CALLERS = {"-m", "--module", "srun"}
"""Words that may precede `pruneboard` in a command."""

TINY = 'model="test_resnet", limit_train=71, overrides={"epochs": 1, "batch_size": 32, "warmup_epochs": 0.0}'


def sections(page):
    """The text under each heading."""
    return re.split(r"^#+ ", text(page), flags=re.MULTILINE)


def table(page, header):
    """The rows of the only table whose first column has this header, as lists of cells."""
    (found,) = re.findall(rf"^\| {re.escape(header)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text(page), re.MULTILINE)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in found.splitlines()]


def column(page, header, name):
    """First cell of each row, without backticks -> the cell in the column `name`."""
    (titles,) = re.findall(rf"^\| ({re.escape(header)} \|.*)\|$", text(page), re.MULTILINE)
    index = [title.strip() for title in titles.split("|")].index(name)
    return {row[0].strip("`"): row[index] for row in table(page, header)}


def pairs(cell):
    """The `key=value` code spans of a cell."""
    return dict(re.findall(r"`(\w+)=([^`]+)`", cell))


def commands(page="README.md"):
    """The arguments of every pruneboard command in the sh blocks of a page."""
    found = []
    for line in "".join(blocks("sh", page)).replace("\\\n", " ").splitlines():
        for call in line.split(" && "):
            words = shlex.split(call.partition(" > ")[0])
            place = next((i for i, word in enumerate(words) if Path(word).name == "pruneboard"), None)
            if place is not None and (place == 0 or words[place - 1] in CALLERS):
                found.append(words[place + 1 :])
    return found


def parsed(arguments):
    """The parameters that click parses from a command line; click refuses invalid arguments."""
    command = load_command(arguments[0])
    return command.make_context(arguments[0], arguments[1:]).params


# Commands


OTHER_PAGES = ("hosts", "submit", "boards", "clusters", "merge", "export", "latency")


@pytest.mark.parametrize(
    "arguments", [*commands(), *(call for name in OTHER_PAGES for call in commands(f"docs/{name}.md"))], ids=" ".join
)
def test_commands_parse(arguments):
    """Every command on these pages exists with its flags and values, and specs, recipes and options are valid."""
    given = parsed(arguments)
    if arguments[0] != "run":
        return
    own = {"dry_run", "as_json", "quiet", "seed", "seeds"}
    rest = {name: value for name, value in given.items() if name not in own}
    for seed in seed_list(given["seeds"], given["seed"]):
        spec = build_spec(rest, seed)
        registry.build(registry.find(spec.method), spec.sparsity, spec.options)


def test_commands_are_found():
    """The search finds the first command, one after `&&`, and one started by torchrun."""
    lines = [" ".join(arguments) for arguments in commands()]
    assert "run --method probmask --model resnet18 --sparsity 0.9" in lines
    assert any(line.startswith("run") and "--norm-batch" in line and "--procs" not in line for line in lines)
    assert any(line.startswith("compare") for line in lines)
    assert len(commands("docs/hosts.md")) == 9


def test_an_unknown_flag_is_refused():
    """The parser refuses a flag that does not exist, so the test of commands can fail."""
    with pytest.raises(Exception, match="--metod"):
        parsed(["run", "--metod", "probmask"])


def test_ci_runs_the_test_command_of_the_readme():
    """The README's test command is in a block of its own, and `.ci/run` contains it word for word."""
    (command,) = [block for block in blocks("sh") if "tox" in block]
    assert command.startswith("python3 -m venv .venv && ")
    assert command in text(".ci/run")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_flags_in_prose_exist(page):
    """Every `--flag` on a page is a flag of some command."""
    known = {
        flag for command in map(load_command, COMMANDS) for p in command.params for flag in (*p.opts, *p.secondary_opts)
    }
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", page.read_text(encoding="utf-8"))
    named = {flag for span in spans for flag in re.findall(r"(?<![\w-])--[a-z][a-z_-]*", span)}
    assert named - known - OTHERS_FLAGS == set()


# Results


def test_results_equal_the_committed_records():
    """`compare` prints every line of the README's table of results from the committed records."""
    (shown,) = [block for block in blocks("text") if "dense control" in block]
    printed = report.terminal(folders.load([ROOT / "results" / "digits-smoke"]), 118, color=False).splitlines()
    assert [line for line in shown.splitlines() if line not in printed] == []


# Examples


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_have_no_conflict_markers(page):
    """No page contains the markers of a merge conflict."""
    assert not re.search(r"^(<{7}|={7}|>{7})(\s|$)", page.read_text(encoding="utf-8"), re.MULTILINE)


WITH_PYTHON = {
    "README.md": 3,
    "docs/boards.md": 1,
    "docs/checks.md": 2,
    "docs/export.md": 4,
    "docs/plugins.md": 1,
    "docs/verify.md": 1,
}
"""Page -> number of its Python blocks."""


def test_pages_with_python_examples_are_listed():
    """The pages that the next test compiles are all pages with Python blocks, and it finds every block."""
    fences = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8").count("```python\n") for page in PAGES}
    assert {page: count for page, count in fences.items() if count} == WITH_PYTHON
    assert {page: len(blocks("python", page)) for page in WITH_PYTHON} == WITH_PYTHON


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_python_examples_compile(page):
    """Every Python block of the page is valid Python."""
    for block in blocks("python", page):
        compile(block, page, "exec")


def test_python_examples_run(tmp_path, monkeypatch):
    """On a smaller network, the first example runs and compares, and the second loads the weights into a timm model."""
    monkeypatch.chdir(tmp_path)
    three_lines, loading = blocks("python")[:2]
    assert 'model="resnet18"' in three_lines
    names: dict[str, object] = {}
    exec(three_lines.replace('model="resnet18"', TINY), names)
    assert names["record"]["status"] == "done"
    assert names["boards"][0].rows[0].method == "probmask"
    exec(loading, names)
    (folder,) = (path.parent for path in Path("results").rglob("run.json"))
    assert json.loads((folder / "run.json").read_text()) == names["record"]
    zeros = sum(int((names["model"].get_parameter(f"{layer['name']}.weight") == 0).sum()) for layer in layers(names))
    assert zeros == names["record"]["sparsity"]["prunable"] - names["record"]["sparsity"]["nonzero"]
    documented = re.findall(r"^\| ((?:`[\w.]+`(?:, )?)+) \|", text(), re.MULTILINE)
    for path in itertools.chain(*(re.findall(r"`([\w.]+)`", cell) for cell in documented)):
        if "." in path:
            assert pruneboard.records.schema.lookup(names["record"], path) is not None, path


def layers(names):
    """The layers in the record of the README's example."""
    return names["record"]["sparsity"]["layers"]


def test_example_pruner_works(site, tmp_path):
    """The README's pruner, in a package with the README's entry point, is found and keeps exactly the budget."""
    (source,) = [block for block in blocks("python") if "MaskPruner" in block]
    (points,) = [block for block in blocks("toml") if "entry-points" in block]
    group, name, target = re.search(r'entry-points\."([\w.]+)"\]\n(\w+) = "(\w+:\w+)"', points).groups()
    module = f"stranger_{target.partition(':')[0]}"
    lines = f"[{group}]\n{name} = {module}:{target.partition(':')[2]}\n"
    site.add("theirs", source, module=module, points=lines)
    record = run(tmp_path, name, 0.9)
    assert record["method"]["distribution"] == "theirs"
    assert record["sparsity"]["kept"] == record["sparsity"]["prunable"] - round(0.9 * record["sparsity"]["prunable"])


# Tables


def built_in():
    """The built-in methods: name -> class."""
    return {info.name: registry.load(info) for info in registry.installed() if info.distribution == "pruneboard"}


def built(name):
    """A built-in method with its default options."""
    return registry.build(registry.find(name), None if name == "dense" else 0.9, {})


@pytest.mark.parametrize(("page", "header"), [("README.md", "name"), ("plugins/README.md", "method")])
def test_method_tables_equal_the_registry(page, header):
    """Both tables of methods list exactly the built-in methods, with every option and its default."""
    options = column(page, header, "options")
    assert set(options) == set(built_in())
    for name, cls in built_in().items():
        defaults = {option: str(getattr(built(name), option)) for option in registry.option_types(cls)}
        assert pairs(options[name]) == defaults, name


def test_method_table_equals_traits_and_tracks():
    """The table of `plugins/README.md` lists the tracks of each method, and the traits that are not the default."""
    traits, tracks = (column("plugins/README.md", "method", name) for name in ("traits", "track"))
    usual = dataclasses.asdict(Traits())
    for name in built_in():
        declared = dataclasses.asdict(built(name).traits("prune"))
        assert pairs(traits[name]) == {key: str(value) for key, value in declared.items() if value != usual[key]}
        assert set(re.findall(r"`(\w+)`", tracks[name])) == set(built(name).tracks)


def test_each_option_is_explained():
    """The table of options in `plugins/README.md` has a row for each option, with its allowed values."""
    rows = {(row[1].strip("`"), row[0].strip("`")): row[2] for row in table("plugins/README.md", "option")}
    kinds = {
        (name, option): kind for name, cls in built_in().items() for option, kind in registry.option_types(cls).items()
    }
    assert set(rows) == set(kinds)
    for key, kind in kinds.items():
        assert all(f"`{value}`" in rows[key] for value in getattr(kind, "__args__", ())), key


def subclasses(cls):
    """A class and all its direct and indirect subclasses."""
    return {cls, *itertools.chain(*map(subclasses, cls.__subclasses__()))}


@pytest.mark.parametrize("page", ["README.md", "docs/protocol.md"])
def test_exit_codes_equal_the_errors(page):
    """The exit codes on both pages are exactly those of the errors, of success and of Ctrl-C."""
    if page == "README.md":
        found = {int(row[0]) for row in table(page, "exit code")}
    else:
        (part,) = [part for part in sections(page) if part.startswith("Exit codes")]
        found = {int(code) for code in re.findall(r"(?:^|\. )(\d+) ", part.replace("\n", " ").partition("  ")[2])}
    ours = {cls.exit_code for cls in subclasses(PruneboardError) if cls.__module__.startswith("pruneboard.")}
    assert found == {0, INTERRUPTED} | ours


def test_layers_name_every_module():
    """The table of layers in CONTRIBUTING.md lists every package and top-level module exactly once."""
    cells = " ".join(row[1] for row in table("CONTRIBUTING.md", "level"))
    named = re.findall(r"`(\w+)`", cells)
    units = {
        path.stem for path in (ROOT / "pruneboard").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert sorted(named) == sorted(units - {"__init__", "__main__"})


def test_board_fields_are_those_of_a_record(tmp_path):
    """The protocol lists exactly the board fields that a record has."""
    (part,) = [part for part in sections("docs/protocol.md") if part.startswith("Boards")]
    paragraph = part.split("\n\n")[1]
    listed = set(re.findall(r"`(\w+)`", paragraph))
    assert listed == set(run(tmp_path)["board"]) - {"fingerprint"}


# Links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_link_targets_exist(page):
    """The target of every relative link exists, and so does its heading if the link names one."""
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, target
