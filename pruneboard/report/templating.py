"""Renders the HTML templates in `assets`. They escape every value that was not marked as safe by `mark_safe`."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any


def render(name: str, **values: Any) -> str:
    """Render a template of `assets`. All texts are escaped, except results of `mark_safe`."""
    return str(_environment().get_template(name).render(values))


def json_script(value: Any) -> Any:
    """Return JSON for a `<script type="application/json">` element, without characters that could end the element."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return mark_safe(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


@cache
def asset(name: str) -> Any:
    """Return a style sheet or script of `assets`, unchanged."""
    return mark_safe((resources.files("pruneboard.report") / "assets" / name).read_text(encoding="utf-8"))


@cache
def vega_bundle() -> Any:
    """Return Vega, Vega-Lite and vega-embed as one script. Bundling takes one to two seconds."""
    import vl_convert

    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return mark_safe(bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--"))


def mark_safe(text: str) -> Any:
    """Mark text as HTML that is not escaped again: only for files of this package and results of functions here."""
    from markupsafe import Markup

    return Markup(text)  # noqa: S704 - the only call; see the docstring


@cache
def _environment() -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("pruneboard.report", "assets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
