"""Resolving a spec: what is decided, and what is refused, before anything is written."""

from __future__ import annotations

import pytest

import runs
from pruneboard.errors import PluginError, UsageError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "probmask", "init": "signed-constant"}, "belongs to the supermask track: add --track supermask"),
        ({"method": "probmask", "track": "supermask", "init": "pretrained"}, "init on the supermask track is one of"),
        ({"method": "probmask", "ablation": "shuffled-mask"}, "belongs to the supermask track; this run is on track"),
        ({"method": "magnitude", "track": "supermask"}, "it runs on prune"),
        ({"method": "edge-popup", "track": "prune"}, "it runs on supermask"),
    ],
)
def test_options_of_the_other_track_are_refused(tmp_path, changes, message):
    """Initial weights, ablations and methods of one track are refused on the other, and nothing is written."""
    with pytest.raises(UsageError, match=message):
        runs.run(tmp_path, **changes)
    assert not any(tmp_path.iterdir())


def test_a_method_with_one_track_needs_no_track_option(tmp_path):
    """edge-popup runs on the supermask track without `--track`."""
    assert runs.run(tmp_path, "edge-popup", 0.5)["track"] == "supermask"


EARLY = """
    from dataclasses import dataclass
    from pruneboard.api import MaskPruner, Traits

    @dataclass(frozen=True, kw_only=True)
    class Thing(MaskPruner):
        tracks = frozenset({"supermask"})

        def traits(self, track):
            return Traits(harden_at=0.5)
"""


def test_fine_tuning_is_refused_on_the_supermask_track(tmp_path, site):
    """`harden_at` must be 1 there, or 0 for a mask that is not learned; else it is an error of the plugin."""
    site.add("early", EARLY)
    with pytest.raises(PluginError, match=r"declares harden_at=0.5 on the supermask track"):
        runs.run(tmp_path / "results", "thing", 0.5, track="supermask")
