"""Load the templates and define how each format escapes values."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from mpsprobe.report.escaping import code_markdown, fence_markdown, prose_html, prose_markdown

TEMPLATES = Path(__file__).parent / "templates"


def fill(template: str, **values: Any) -> str:
    """Render a template with `values`; its file name tells the format (`.html.j2`, `.svg.j2`, `.md.j2`)."""
    environment = _markdown() if template.endswith(".md.j2") else _markup()
    return environment.get_template(template).render(**values)


@cache
def _markup() -> jinja2.Environment:
    """Return the environment of HTML and SVG, in which everything is escaped."""
    environment = _environment(autoescape=True)
    environment.filters["prose"] = prose_html
    environment.globals["script"] = Markup((TEMPLATES / "report.js").read_text(encoding="utf-8"))
    environment.globals["css"] = Markup((TEMPLATES / "report.css").read_text(encoding="utf-8"))
    return environment


@cache
def _markdown() -> jinja2.Environment:
    """Return the environment of Markdown: values become one line of escaped prose unless printed as code."""
    environment = _environment(autoescape=False, finalize=_finalize)
    environment.filters["code"] = lambda text: _Ready(code_markdown(text))
    environment.filters["fence"] = lambda text: _Ready(fence_markdown(text))
    return environment


class _Ready(str):
    """Markdown that is escaped already."""


def _finalize(value: Any) -> Any:
    return value if isinstance(value, _Ready) else prose_markdown(str(value))


def _environment(**options: Any) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )
