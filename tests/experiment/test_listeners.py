"""Observers of a run: metrics, log and event files."""

from __future__ import annotations

from runs import folder, run


def test_tensorboard_events(tmp_path):
    """With `tensorboard`, the run's folder has event files with one value per epoch."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, tensorboard=True)
    events = EventAccumulator(str(folder(tmp_path) / "tensorboard"))
    events.Reload()
    assert len(events.Scalars("validation/top1")) == 2
