"""Boards and records as text: terminal, Markdown, CSV, JSON. Pure functions; no torch, no files."""

from __future__ import annotations

from pruneboard.report.card import summary
from pruneboard.report.clean import plain
from pruneboard.report.terminal import render, terminal
from pruneboard.report.text import csv, json, markdown

__all__ = ["csv", "json", "markdown", "plain", "render", "summary", "terminal"]
