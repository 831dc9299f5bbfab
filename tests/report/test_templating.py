"""Tests JSON in script elements, and escaping in templates."""

from __future__ import annotations

import html
import json

from hypothesis import given
from hypothesis import strategies as st

from pruneboard.report.templating import json_script, mark_safe, render

TEXT = st.text(st.characters(codec="utf-8") | st.sampled_from("<>&\"'`{}%\u2028\u2029\x00\x1b/!-"), min_size=1)


@given(st.recursive(TEXT, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=5))
def test_json_cannot_end_its_script_element(value):
    """The JSON reads back unchanged and contains no character with a meaning in HTML or JavaScript."""
    text = str(json_script(value))
    assert json.loads(text) == value
    assert not set(text) & set("<>&\u2028\u2029")


@given(TEXT)
def test_templates_escape_text_unless_it_is_marked_safe(text):
    """The record of a run is a template whose values come from an untrusted file."""

    def rendered(title):
        return render("run.html", run={"blocks": [(title, [])]})

    shown = rendered(text).partition("<h4>")[2].partition("</h4>")[0]
    assert not set(shown) & set("<>\"'")
    assert html.unescape(shown) == text
    assert f"<h4>{text}</h4>" in rendered(mark_safe(text))
