"""The templates, with everything that comes from a run escaped."""

from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cosup import __version__
from cosup.report import words


def render(template: str, **values: Any) -> str:
    """A template of `cosup/report/templates` as text; `css`, `js` and `version` are given to it."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("cosup.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        place=_place,
        words=words.plural,
        short=words.shorten,
        name_width=_name_width,
        whole=_whole,
    )
    environment.globals.update(css=_asset("style.css"), js=_asset("page.js"), version=__version__)
    return environment


def _asset(name: str) -> Markup:
    """Our own file, as it is."""
    return Markup(resources.files("cosup.report").joinpath("templates", name).read_text("utf-8"))


def _place(share: float) -> str:
    """A share as CSS percent, short."""
    return f"{100 * share:.2f}".rstrip("0").rstrip(".") + "%"


def _whole(text: str) -> str:
    """A number is not parted from its percent sign at the end of a line."""
    return text.replace(" %", "\u00a0%")


def _name_width(rows: Iterable[Any]) -> str:
    """Room for the longest name of a drawing's rows, within bounds; longer ones are wrapped."""
    longest = 0.0
    for row in rows:
        name = words.width(words.shorten(row.name)) + 2.5 * getattr(row, "depth", 0)
        longest = max(longest, name + words.width(row.note) + 1 if row.note else name)
    return f"{min(21.0, max(6.0, 0.47 * longest)):.1f}rem"
