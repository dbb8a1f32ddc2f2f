"""A run as Markdown, HTML, JSON and JUnit. Nothing here measures."""

from mpsprobe.report.headline import Headline, verdict
from mpsprobe.report.render import DEFAULT, FILES, Format, render, write

__all__ = ["DEFAULT", "FILES", "Format", "Headline", "render", "verdict", "write"]
