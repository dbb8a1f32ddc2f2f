"""Reports of a run as Markdown, HTML, JSON and JUnit. Nothing here measures."""

from mpsprobe.report.exports import workflow_commands
from mpsprobe.report.headline import Headline, verdict
from mpsprobe.report.render import DEFAULT, FILES, Format, append_summary, render, write

__all__ = [
    "DEFAULT",
    "FILES",
    "Format",
    "Headline",
    "append_summary",
    "render",
    "verdict",
    "workflow_commands",
    "write",
]
