"""Reports of a run as Markdown, HTML, JSON and JUnit. Nothing here measures."""

from mpsprobe.report.exports import DEFAULT, FILES, Format, append_summary, render, workflow_commands, write
from mpsprobe.report.headline import Headline, verdict

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
