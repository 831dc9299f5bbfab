"""The registry: installed pruners, faulty third-party distributions, and options."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest

from distributions import GOOD
from messages import message
from pruneboard import registry
from pruneboard.api import Pruner
from pruneboard.errors import PluginError, UnknownNameError, UsageError

PLUGINS = Path(__file__).parents[1] / "plugins"
AGAIN = "install again: pip install -e ."
BUILT_IN = ["dense", "edge-popup", "gmp", "magnitude", "probmask", "random", "rigl", "snip", "str", "synflow"]
NO_GATE = """
    from dataclasses import dataclass
    from pruneboard.api import Pruner

    @dataclass(frozen=True, kw_only=True)
    class Thing(Pruner):
        pass
"""
NOT_A_DATACLASS = """
    from pruneboard.api import MaskPruner

    class Thing(MaskPruner):
        amount = 1
"""
NOT_FROZEN = """
    from dataclasses import dataclass
    from pruneboard.api import MaskPruner

    @dataclass(kw_only=True)
    class Thing(MaskPruner):
        amount: int = 1
"""
UNRESOLVED = """
    from __future__ import annotations
    from dataclasses import dataclass
    from typing import TYPE_CHECKING
    from pruneboard.api import MaskPruner

    if TYPE_CHECKING:
        from decimal import Decimal

    @dataclass(frozen=True, kw_only=True)
    class Thing(MaskPruner):
        amount: Decimal | None = None
"""
FAILS_WHEN_BUILT = """
    from dataclasses import dataclass
    from pruneboard.api import MaskPruner

    @dataclass(frozen=True, kw_only=True)
    class Thing(MaskPruner):
        def __post_init__(self):
            {}["missing"]
"""

FAULTS = {
    "raises": ("raise RuntimeError('no GPU\\n  here')", "cannot be imported: RuntimeError: no GPU here; fix or"),
    "exits": ("import sys; sys.exit('needs a licence')", "cannot be imported: SystemExit: needs a licence; fix or"),
    "syntax": ("def (:", "cannot be imported: SyntaxError"),
    "needs a missing package": ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
    "nothing there": ("", "cannot be imported: AttributeError"),
    "not a class": ("Thing = 3", "is not a subclass of pruneboard.api.Pruner but 3"),
    "a module function": ("def Thing(): pass", "is not a subclass of pruneboard.api.Pruner but <function Thing"),
    "not a pruner": ("class Thing: pass", "is not a subclass of pruneboard.api.Pruner but <class"),
    "no dataclass": (NOT_A_DATACLASS, "is not decorated with @dataclass(frozen=True, kw_only=True); fix or"),
    "not frozen": (NOT_FROZEN, "TypeError: cannot inherit non-frozen dataclass from a frozen one"),
    "no gate": (NO_GATE, "does not define gate"),
    "unresolved annotation": (UNRESOLVED, "name 'Decimal' is not defined; import what they name outside TYPE_CHECKING"),
    "fails when built": (FAILS_WHEN_BUILT, "cannot be built: KeyError: 'missing'; fix or uninstall"),
}


def names() -> list[str]:
    """Return the names of all installed pruners."""
    return [info.name for info in registry.installed()]


def build(method, sparsity=0.5, **options) -> Pruner:
    """Find a pruner and create an instance."""
    return registry.build(registry.find(method), sparsity, options)


# What is installed


def test_the_built_in_methods_are_registered_like_any_other():
    """Each is listed with the name and version of pruneboard's distribution and the object behind it."""
    found = {info.name: info for info in registry.installed() if info.distribution == "pruneboard"}
    assert sorted(found) == BUILT_IN, AGAIN
    assert {info.version for info in found.values()} == {metadata.version("pruneboard")}
    assert found["magnitude"].target == "pruneboard_magnitude:Magnitude"


def test_every_plugin_folder_is_registered():
    """The folders under `plugins/` are the modules in the registry."""
    folders = {path.parent.name for path in PLUGINS.glob("*/__init__.py")}
    modules = {info.target.partition(":")[0] for info in registry.installed() if info.distribution == "pruneboard"}
    assert modules == folders, AGAIN


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_method_builds(name):
    """Each loads as a pruner at a sparsity that it accepts."""
    pruner = build(name, None if name == "dense" else 0.9)
    assert isinstance(pruner, Pruner)
    assert pruner.sparsity == (0.0 if name == "dense" else 0.9)


def test_a_source_tree_has_its_version_too(tmp_path, monkeypatch):
    """An *.egg-info folder without a version in its name, as an editable install writes it, uses the metadata."""
    info = tmp_path / "stranger_tree.egg-info"
    info.mkdir()
    (info / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: stranger_tree\nVersion: 2.5\n")
    (info / "entry_points.txt").write_text("[pruneboard.pruners]\nthing = stranger_tree:Thing\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert registry.find("thing").version == "2.5"


# Third-party distributions


def test_a_third_party_method_is_found_with_its_origin(site):
    """A second distribution is listed beside the built-in methods, with its own name and version, and can be used."""
    target = site.add("their_pruner", version="0.7.1")
    assert registry.find("thing") == registry.PrunerInfo("thing", "their_pruner", "0.7.1", target)
    assert build("thing", 0.25).sparsity == 0.25
    assert names() == sorted([*BUILT_IN, "thing"])


def test_finding_imports_nothing(site):
    """Listing and finding never run the code of a plugin."""
    module = site.add("their_pruner", "raise SystemExit").partition(":")[0]
    registry.installed()
    registry.find("thing")
    assert module not in sys.modules


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_distribution_is_one_line_and_breaks_nothing_else(site, fault):
    """The message names distribution, object and remedy; listing and all other methods still work."""
    source, expected = FAULTS[fault]
    target = site.add("their_pruner", source)
    text = message(lambda: build("thing"), PluginError)
    assert expected in text
    assert f"'thing' of their_pruner 1.2 ({target})" in text
    assert text.endswith("; fix or uninstall their_pruner")
    assert "thing" in names()
    assert build("magnitude").sparsity == 0.5


def test_a_missing_module_is_named(site):
    """An entry point whose module is not installed is an error that names the module."""
    site.add("their_pruner", points="[pruneboard.pruners]\nthing = stranger_nowhere:Thing\n")
    text = message(lambda: build("thing"), PluginError)
    assert "No module named 'stranger_nowhere'" in text
    assert text.endswith("fix or uninstall their_pruner")


def test_a_class_that_is_not_installed_is_to_be_fixed(site):
    """The remedy for a class given by its module is to fix it, not to uninstall it."""
    target = site.add("their_pruner", "Thing = 3")
    text = message(lambda: registry.load(registry.from_target(target)), PluginError)
    assert text.endswith("is not a subclass of pruneboard.api.Pruner but 3; fix it")


def test_two_distributions_with_one_name_are_both_named(site):
    """A clash is listed twice and is an error when used, naming both; other methods are not affected."""
    site.add("first_dist", version="1.0")
    site.add("second_dist", version="2.0")
    assert names().count("thing") == 2
    text = message(lambda: build("thing"), PluginError)
    assert "first_dist 1.0" in text
    assert "second_dist 2.0" in text
    assert text.endswith("uninstall one of them")
    assert build("magnitude").sparsity == 0.5


def test_a_third_party_method_cannot_replace_a_built_in_one(site):
    """A distribution that claims `magnitude` is a clash, not an override."""
    site.add("impostor", method="magnitude")
    assert "impostor 1.2" in (text := message(lambda: build("magnitude"), PluginError))
    assert "pruneboard_magnitude:Magnitude" in text
    assert build("random").sparsity == 0.5


def test_a_malformed_line_is_ignored(site):
    """One malformed entry point hides only itself, without a warning."""
    site.add("their_pruner", module="stranger_ok", points="[pruneboard.pruners]\nbad = ??\nthing = stranger_ok:Thing\n")
    assert names() == sorted([*BUILT_IN, "thing"])


@pytest.mark.parametrize("points", ["no section\n", "[pruneboard.pruners]\na = b:C\na = d:E\n", "[x]\na = %(b\n[x]\n"])
def test_an_unreadable_file_of_entry_points_is_one_line(site, points):
    """The message names the distribution whose entry points cannot be read, and what to do."""
    site.add("their_pruner", points=points)
    text = message(registry.installed, PluginError)
    assert text.startswith("the entry points of their_pruner 1.2 cannot be read: ")
    assert text.endswith("; fix or uninstall it")


# Names and options


def test_an_unknown_method_gives_the_similar_name():
    """A misspelled method gives the similar name and where to look."""
    text = message(lambda: registry.find("magnitud"), UnknownNameError)
    assert text == "unknown method 'magnitud': did you mean magnitude? `pruneboard list` shows what is installed"


def test_options_are_converted_to_their_types(site):
    """Text from the command line becomes a value of the type that the class declares."""
    site.add("their_pruner")
    options = {"amount": "3", "rate": "0.25", "fast": "true", "mode": "b", "size": "8"}
    pruner = build("thing", **options)
    assert [getattr(pruner, name) for name in options] == [3, 0.25, True, "b", 8]
    assert build("thing", pair=(0.5, 2.0), size=None).pair == (0.5, 2.0)


def test_the_options_are_the_fields_without_the_sparsity(site):
    """`sparsity` has an option of its own, and class variables are not options."""
    site.add("their_pruner")
    types = registry.option_types(registry.load(registry.find("thing")))
    assert list(types) == ["amount", "rate", "fast", "mode", "size", "pair"]
    assert types["amount"] is int


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"amount": "x"}, "option amount of method 'thing' must be a whole number; found 'x'"),
        ({"amount": 1.5}, "option amount of method 'thing' must be a whole number; found 1.5"),
        ({"rate": "nan"}, "option rate of method 'thing' must be a number; found 'nan'"),
        ({"fast": "yes"}, "option fast of method 'thing' must be true or false; found 'yes'"),
        ({"mode": "c"}, "option mode of method 'thing' must be one of a, b; found 'c'"),
        ({"amount": 0}, "method 'thing': amount is 1 or more; found 0"),
    ],
)
def test_a_wrong_option_is_one_line(site, options, expected):
    """The registry checks types and the method checks values; both give one line."""
    site.add("their_pruner")
    assert message(lambda: build("thing", **options), UsageError) == expected


@pytest.mark.parametrize("name", ["amuont", "sparsity"])
def test_an_unknown_option_names_the_options(site, name):
    """A misspelled option is an error, and so is the sparsity, which is not an option."""
    site.add("their_pruner")
    text = message(lambda: registry.build(registry.find("thing"), 0.5, {name: 1}), UnknownNameError)
    assert text.startswith(f"unknown option of method 'thing': {name!r}")
    assert "amount" in text


@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        ("magnitude", {"prune_at": "-1"}, "prune_at must be a fraction of the step budget in [0, 1]; found -1.0"),
        ("magnitude", {"allocation": "best"}, "one of global, uniform, erk, lamp; found 'best'"),
        ("random", {"allocation": "lamp"}, "one of uniform, global, erk; found 'lamp'"),
        ("probmask", {"passes": "0"}, "passes and samples must be 1 or more; found 0, 10"),
    ],
)
def test_built_in_options_out_of_range_are_refused(method, options, expected):
    """The built-in methods check the ranges of their options and name them."""
    assert expected in message(lambda: build(method, **options), UsageError)


def test_a_method_that_prunes_needs_a_sparsity():
    """Without a sparsity, the message names the option to add."""
    text = message(lambda: build("magnitude", None), UsageError)
    assert text == "method 'magnitude' needs a sparsity: add --sparsity, a fraction of zeros such as 0.9"


def test_a_sparsity_out_of_range_is_refused_by_every_pruner(site):
    """Every pruner checks its sparsity, even if the spec did not."""
    site.add("their_pruner")
    assert "fraction of zeros in [0, 1); found 1.5" in message(lambda: build("thing", 1.5), UsageError)


def test_a_pruner_cannot_replace_its_sparsity(site):
    """A pruner that sets another sparsity than was asked for is refused: the budget follows from it."""
    site.add("half", GOOD.replace("super().__post_init__()", 'object.__setattr__(self, "sparsity", 0.5)'))
    assert "replaces the sparsity 0.9 by 0.5" in message(lambda: build("thing", 0.9), PluginError)


def test_the_dense_control_takes_no_sparsity():
    """A sparsity other than 0 is an error that names the option to remove."""
    assert "leave --sparsity out; found 0.5" in message(lambda: build("dense", 0.5), UsageError)
    assert build("dense", 0.0).sparsity == 0.0


@pytest.mark.parametrize("name", ["magnitude (baseline)", "magnitude\u200b", "Magnitude", "-magnitude", "mägnitude"])
def test_a_name_that_is_not_allowed_is_refused(site, name):
    """A name that could be read as another method's cannot be used; the message shows it in ASCII, with the remedy."""
    site.add("stranger_lookalike", method=name)
    text = message(lambda: registry.find(name), PluginError)
    assert f"has a name that is not allowed, {name!a}" in text
    assert text.endswith("fix or uninstall stranger_lookalike")
