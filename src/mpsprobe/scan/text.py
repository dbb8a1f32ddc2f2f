"""A report for people: each finding with its mend, and what stands behind each rule once."""

from __future__ import annotations

import textwrap

from mpsprobe.scan.finding import Finding, Report, Severity
from mpsprobe.scan.rules import all_rules

_WIDTH = 100


def lines(report: Report, *, explain: bool = True) -> str:
    """The report as text.

    Args:
        report: what was found.
        explain: say below the findings what each rule means and what to do.
    """
    parts = [_finding(finding) for finding in report.findings]
    parts += [f"{_at(problem.path, problem.line)}: {problem.reason}" for problem in report.unreadable]
    if explain and report.findings:
        parts.append("")
        parts += [text for code in report.by_rule() for text in _rule(code, report)]
    parts.append(summary(report))
    return "\n".join(parts)


def summary(report: Report) -> str:
    """One line: how much was read and found."""
    counts = dict.fromkeys(Severity, 0)
    for finding in report.findings:
        counts[finding.severity] += 1
    found = ", ".join(_count(number, severity.value) for severity, number in counts.items() if number)
    extra = [
        _count(len(report.unreadable), "file") + " not read" if report.unreadable else "",
        f"{report.suppressed} silenced by noqa" if report.suppressed else "",
        _count(report.tests_left_out, "test file") + " left out" if report.tests_left_out else "",
    ]
    rest = "".join(f"; {text}" for text in extra if text)
    read = f"{_count(report.files, 'file')}, {_count(report.lines, 'line')}"
    return f"{found or 'Nothing found'} in {read} (torch {report.torch}){rest}."


def _finding(finding: Finding) -> str:
    where = f"{finding.path}:{finding.line}:{finding.column}"
    return f"{where}: {finding.severity.value} {finding.code} {finding.message}\n    {finding.text[:_WIDTH]}"


def _rule(code: str, report: Report) -> list[str]:
    """A rule's why and mend; those that its findings have of their own follow."""
    rule = all_rules()[code]
    of_it = [finding for finding in report.findings if finding.code == code]
    told = dict.fromkeys((finding.why, finding.mend) for finding in of_it)
    text = [f"{code} {rule.name} ({_count(len(of_it), 'finding')}): {rule.title}"]
    for why, mend in told:
        text += _wrapped("why:  ", why)
        text += _wrapped("mend: ", mend)
    return [*text, ""]


def _wrapped(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=f"    {label}",
        subsequent_indent=" " * (4 + len(label)),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _at(path: str, line: int | None) -> str:
    return path if line is None else f"{path}:{line}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
