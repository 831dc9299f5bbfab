"""Third-party distributions, written to a folder on `sys.path` as an installer would."""

from __future__ import annotations

import itertools
import textwrap

NUMBER = itertools.count()

GOOD = """
    from dataclasses import dataclass
    from typing import Literal
    from pruneboard.api import MaskPruner

    @dataclass(frozen=True, kw_only=True)
    class Thing(MaskPruner):
        amount: int = 1
        rate: float = 0.5
        fast: bool = False
        mode: Literal["a", "b"] = "a"
        size: int | None = None
        pair: tuple[float, float] = (0.0, 1.0)

        def __post_init__(self):
            super().__post_init__()
            if self.amount < 1:
                raise ValueError(f"amount is 1 or more; found {self.amount}")
"""


class Site:
    """A folder on `sys.path` that contains installed distributions."""

    def __init__(self, folder):
        self.folder = folder

    def add(self, distribution, source=GOOD, *, method="thing", version="1.2", module=None, points=None) -> str:
        """Write a distribution with one module, and return the object that its entry point names."""
        module = module or f"stranger_{next(NUMBER)}"
        (self.folder / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        info = self.folder / f"{distribution}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        text = points or f"[pruneboard.pruners]\n{method} = {module}:Thing\n"
        (info / "entry_points.txt").write_text(text, encoding="utf-8")
        return f"{module}:Thing"
