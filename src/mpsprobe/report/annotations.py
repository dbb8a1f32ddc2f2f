"""A run as GitHub Actions annotations.

https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from mpsprobe.report.escaping import clean
from mpsprobe.report.headline import all_checks, verdict
from mpsprobe.run import Check, Run, Status

_LEVELS = {
    Status.FAIL: "error",
    Status.CRASHED: "error",
    Status.TIMEOUT: "error",
    Status.ERROR: "error",
    Status.WARN: "warning",
}


def workflow_commands(run: Run) -> str:
    """Return one workflow command a line for each failure and warning, and a notice with the verdict."""
    headline = verdict(run)
    lines = [_command("notice", "mpsprobe", headline.sentence)]
    lines += [_of(check) for check in all_checks(run) if check.status in _LEVELS]
    return "\n".join(lines)


def _of(check: Check) -> str:
    told = " ".join(part for part in (check.message, check.remedy) if part) or check.title
    return _command(_LEVELS[check.status], f"{check.phase.label}: {check.id}", told)


def _command(level: str, title: str, message: str) -> str:
    escaped = title.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    escaped = escaped.replace(":", "%3A").replace(",", "%2C")
    text = clean(message).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return f"::{level} title={clean(escaped)}::{text}"
