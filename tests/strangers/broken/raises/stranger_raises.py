"""Needs a device that is not there, and looks for it when it is imported."""

raise RuntimeError("no accelerator\n  of ours was found")
