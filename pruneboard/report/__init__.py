"""Boards and records as text, page and pictures. Pure functions; no torch, no files."""

from __future__ import annotations

from pruneboard.report.card import summary
from pruneboard.report.clean import plain
from pruneboard.report.figures import figures
from pruneboard.report.latex import latex
from pruneboard.report.page import html
from pruneboard.report.terminal import render, terminal
from pruneboard.report.text import csv, json, markdown

__all__ = ["csv", "figures", "html", "json", "latex", "markdown", "plain", "render", "summary", "terminal"]
