"""What all pages share: the template environment, swatches of lines, figures as text."""

from __future__ import annotations

import math
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from jepa_core.report.figures import DASHES, MARKERS, SERIES, VARIABLES, Chart

_NUMBERS = {VARIABLES[colour]: number for number, colour in enumerate(SERIES)}
# In a box of 30 x 10 around its centre, after the names Matplotlib has for them.
_SHAPES = {
    "o": "M11.5 5a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z",
    "s": "M12 2h6v6h-6z",
    "^": "M15 1l4 7.5h-8z",
    "D": "M15 1l4 4l-4 4l-4-4z",
    "v": "M15 9l4-7.5h-8z",
    "P": "M13.5 1h3v2.5h2.5v3h-2.5v2.5h-3v-2.5h-2.5v-3h2.5z",
}


def environment(*packages: str) -> Environment:
    """Templates of these packages, then those of the report; everything is escaped, an unknown name is an error."""
    loader = ChoiceLoader([PackageLoader(name, ".") for name in (*packages, "jepa_core.report")])
    found = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    found.globals["swatch"] = swatch
    return found


def swatch(variable: str) -> Markup:
    """A piece of the line that is drawn in this CSS colour: dashes and mark as in the drawing."""
    number = _NUMBERS.get(variable)
    colour = f"var({variable})"
    dashes = " ".join(str(2 * length) for length in DASHES[number]) if number is not None else ""
    line = f'<path d="M0 5H30" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes or "none"}"/>'
    mark = f'<path d="{_SHAPES[MARKERS[number]]}" fill="{colour}"/>' if number is not None else ""
    # Nothing here comes from outside the program.
    return Markup(f'<svg class="swatch" viewBox="0 0 30 10" aria-hidden="true">{line}{mark}</svg>')


def page_chart(chart: Chart) -> dict[str, Any]:
    """A chart for a template. The only text of a drawing is numbers and names that Matplotlib escaped."""
    return {"title": chart.title, "caption": chart.caption, "legend": chart.legend, "svg": Markup(chart.svg)}


def number(value: Any, digits: int = 3) -> str:
    """A figure for reading; a dash where there is none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return "–"
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"


def capital(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]
