"""What `harden` may do: a declared number of charged validations, and changes of weights only if declared."""

from __future__ import annotations

import pytest

from pruneboard.data import CALIBRATION_BATCHES
from pruneboard.errors import AuditError
from pruneboard.experiment import lifecycle
from pruneboard.leaderboard import folders
from pruneboard.records import store
from pruneboard.report import text
from runs import folder, run, tiny

SOURCE = """
    from dataclasses import dataclass
    from pruneboard.api import MaskPruner, Traits
    from pruneboard.scores import budget, set_masks, top_k

    @dataclass(frozen=True, kw_only=True)
    class Thing(MaskPruner):
        calls: int = 0
        writes: bool = False

        def traits(self, track):
            return Traits(harden_at=0.5{traits})

        def before_step(self, layers, at):
            pass

        def harden(self, layers, at, validate):
            set_masks(layers, top_k([layer.dense.detach().abs() for layer in layers], budget(layers)))
            for _ in range(self.calls):
                try:
                    validate()
                except Exception:
                    pass
            if self.writes:
                at.assign(layers[0].dense, layers[0].dense * 1.5)
"""


def attempt(site, results, traits="", *, model="test_resnet", **options):
    """Run the method with these traits and options."""
    if not any(site.folder.iterdir()):
        site.add("hardens", SOURCE.format(traits=traits))
    return lifecycle.run(tiny(results, "thing", options=options, model=model))


def test_validations_are_counted_and_charged(site, tmp_path):
    """Each costs a forward pass of the validation images and of the batches from which statistics are estimated."""
    free, paid = (attempt(site, tmp_path, calls=calls) for calls in (0, 16))
    images = CALIBRATION_BATCHES * 32 + free["data"]["validation"]
    assert (free["cost"]["validations"], paid["cost"]["validations"]) == (0, 16)
    assert free["cost"]["relative_train_macs"] == 1.0
    assert paid["cost"]["train_macs"] - free["cost"]["train_macs"] == 16 * images * paid["cost"]["macs_dense"]
    assert paid["cost"]["relative_train_macs"] > 1.0
    assert paid["weights_sha256"] == free["weights_sha256"]


@pytest.mark.parametrize(("traits", "calls"), [("", 17), (", max_validations=0", 1), (", max_validations=31", 32)])
def test_more_validations_than_declared_are_refused(site, tmp_path, traits, calls):
    """The run is invalid even if the method catches the error; 16 are allowed unless the method declares otherwise."""
    with pytest.raises(AuditError, match=r"harden called validate\(\) more than \d+ times"):
        attempt(site, tmp_path, traits, calls=calls, model="test_vit")  # without batch statistics to estimate
    assert store.read(folder(tmp_path) / "run.json")["status"] == "invalid"


def test_an_undeclared_change_of_weights_is_refused(site, tmp_path):
    """A weight that `harden` changes makes the run invalid, and the message names it and the declaration."""
    with pytest.raises(AuditError, match=r"harden changed .*original: .* declares Traits\.writes_weights_at_harden"):
        attempt(site, tmp_path, writes=True)
    assert store.read(folder(tmp_path) / "run.json")["status"] == "invalid"


def test_a_declared_change_of_weights_is_shown_on_the_row(site, tmp_path):
    """The run is done, the record holds the declaration, and the tables state it."""
    record = attempt(site, tmp_path, ", writes_weights_at_harden=True", writes=True)
    assert (record["status"], record["method"]["traits"]["writes_weights_at_harden"]) == ("done", True)
    shown = text.markdown(folders.load([tmp_path]))
    (note,) = [line for line in shown.splitlines() if "hardening: thing" in line]
    assert note.endswith("the method changes weights when it hardens, as it declares")


def test_built_in_methods_declare_what_they_do(tmp_path):
    """ProbMask validates once per sample and keeps weights; magnitude pruning does neither."""
    probmask, magnitude = (run(tmp_path, method) for method in ("probmask", "magnitude"))
    assert probmask["cost"]["validations"] == probmask["method"]["options"]["samples"]
    assert probmask["method"]["traits"]["max_validations"] == probmask["method"]["options"]["samples"]
    assert magnitude["cost"]["validations"] == 0
    assert not any(made["method"]["traits"]["writes_weights_at_harden"] for made in (probmask, magnitude))
