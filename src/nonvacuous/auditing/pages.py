"""What every page shares: the templates, and how data and plotly are put into a page that works without a network."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from nonvacuous.auditing import wording
from nonvacuous.core.measured import Kind


@cache
def environment() -> Environment:
    """The templates, with ``w`` for the wording."""
    found = Environment(
        loader=PackageLoader("nonvacuous.auditing", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals["w"] = wording
    found.globals["Kind"] = Kind
    return found


def as_data(json_text: str) -> Markup:
    """JSON that may stand inside a script element."""
    return Markup(json_text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def figure_data(figure: Any) -> Markup:
    """A plotly figure, likewise."""
    return as_data(figure.to_json())


def plotly_script() -> Markup:
    """The whole of plotly.js, likewise."""
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs().replace("</script", "<\\/script").replace("<!--", "<\\!--"))
