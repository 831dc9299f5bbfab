"""Names on the command line are split, checked and put in order."""

from __future__ import annotations

import itertools

import pytest

from pruneboard.artifacts.choices import Choices
from pruneboard.errors import UnknownNameError, UsageError

CHOICES = Choices("format", ("plain", "csr", "onnx"), {"onnx": ("json", "no_such_package", "nor_this")})


def test_names_come_in_the_order_of_the_choices():
    """However two names are given, repeated or separated by commas, each is returned once and in a fixed order."""
    for texts in itertools.permutations(["csr", " plain,csr", "plain"]):
        assert CHOICES.parse(texts) == ("plain", "csr")


def test_no_name_is_none():
    """Without a name the result is None, which stands for every available one."""
    assert CHOICES.parse(()) is None


def test_an_unknown_name_is_refused_with_the_nearest():
    """A mistyped name is answered with the nearest one that exists."""
    with pytest.raises(UnknownNameError, match="unknown format 'onxx': did you mean onnx"):
        CHOICES.parse(["csr,onxx"])


def test_missing_packages_are_named():
    """A name that needs missing packages is refused; the error names these packages and the command."""
    with pytest.raises(UsageError, match=r"format onnx needs no_such_package and nor_this, .*'pruneboard\[onnx\]'"):
        CHOICES.parse(["onnx"])
    CHOICES.check_packages("csr")
