"""From values to HTML: the templates in `assets`, which escape every text, and what is put between them as it is."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any


def render(name: str, **values: Any) -> str:
    """Return a template of `assets` with its values; texts are escaped, only what `markup` returned is not."""
    return str(_environment().get_template(name).render(values))


def script(value: Any) -> Any:
    """Return JSON for a `<script type="application/json">`: no character in it can end the block or a line."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


@cache
def asset(name: str) -> Any:
    """Return a style sheet or script of `assets` as it stands."""
    return markup((resources.files("pruneboard.report") / "assets" / name).read_text(encoding="utf-8"))


@cache
def library() -> Any:
    """Return Vega, Vega-Lite and vega-embed as one script; it takes a second or two to put together."""
    import vl_convert

    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return markup(bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--"))


def markup(text: str) -> Any:
    """Mark text as HTML already: what this package ships, or made by `render` and `script`, and nothing else."""
    from markupsafe import Markup

    return Markup(text)  # noqa: S704 - the one place; see above


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
