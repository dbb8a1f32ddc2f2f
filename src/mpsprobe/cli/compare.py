"""`mpsprobe compare`: compare two runs, worst changes first."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import click

from mpsprobe.cli.report import read_run
from mpsprobe.cli.sink import Sink, aligned, pass_sink, width
from mpsprobe.comparison import (
    WORSE_BY,
    Change,
    CheckChange,
    Comparison,
    NumberChange,
    OpChange,
    RunSide,
    Significance,
    compare,
)
from mpsprobe.quantities import enumerate_words
from mpsprobe.report.wording import value
from mpsprobe.run import Evidence, Measurement

#: What counts as a change in the answer.
_COUNTED = (Change.WORSE, Change.LOST, Change.BETTER)

#: Unchanged numbers are left out of the text; `--json` has them.
_SHOWN = (Change.WORSE, Change.BETTER, Change.OTHER)


@click.command("compare")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--worse-by",
    default=WORSE_BY,
    show_default=True,
    metavar="RATIO",
    type=click.FloatRange(min=1, min_open=True),
    help="Ratio from which a number without known scatter counts as worse.",
)
@pass_sink
def command(sink: Sink, /, a: Path, b: Path, worse_by: float) -> None:
    """Compare run B with run A: machines, torch releases, before and after a change.

    A and B are run.json files, their folders, or journals of runs that were killed. Numbers with different evidence
    or devices are shown without a ratio, together with the reason.

    Exit codes: 0 no regressions in B, 1 some (a status, an op's verdict, a number), 2 usage, 4 mpsprobe failed.
    """
    found = compare(read_run(a), read_run(b), worse_by)
    sink.result(render(found), found)
    sys.exit(1 if found.worse else 0)


def render(found: Comparison) -> str:
    """Return the comparison as text."""
    parts = [
        _answer(found),
        aligned(["", "A", "B"], _sides(found.a, found.b), width()),
        "\n".join(found.cautions),
    ]
    shown = [check for check in found.checks if check.a is not check.b]
    same = found.same_checks + len(found.checks) - len(shown)
    parts.append(_section("checks", [_check(check) for check in shown], same))
    numbers = [number for number in found.measurements if number.change in _SHOWN]
    parts.append(_section("numbers", [_number(n) for n in numbers], len(found.measurements) - len(numbers)))
    parts.append(_section("ops", [_op(op) for op in found.ops], found.same_ops))
    parts.append(_answer(found))
    return "\n\n".join(part for part in parts if part)


def _answer(found: Comparison) -> str:
    """Return whether B is worse, and how many checks, numbers and ops changed for better or worse."""
    changes = Counter(
        [
            *(check.change for check in found.checks),
            *(number.change for number in found.measurements),
            *(op.change for op in found.ops),
        ]
    )
    counts = [f"{changes[each]:,} {each.value}" for each in Change if changes[each] and each in _COUNTED]
    summary = f": {enumerate_words(counts)}, of checks, numbers and ops" if counts else ""
    return f"{'Regressions' if found.worse else 'No regressions'} in B{summary}."


def _sides(a: RunSide, b: RunSide) -> list[list[str]]:
    packages = dict.fromkeys([*a.packages, *b.packages])
    return [
        ["run", a.id, b.id],
        ["target", f"{a.target} {a.dtype}".strip(), f"{b.target} {b.dtype}".strip()],
        ["device", a.device, b.device],
        ["evidence", _evidence(a.evidence), _evidence(b.evidence)],
        ["machine", a.machine, b.machine],
        ["system", a.os, b.os],
        *([name, a.packages.get(name, "-"), b.packages.get(name, "-")] for name in packages),
    ]


def _evidence(evidence: list[Evidence]) -> str:
    return ", ".join(one.value for one in evidence) or "no evidence"


def _section(title: str, lines: list[str], same: int) -> str:
    if not lines and not same:
        return ""
    rest = f"{same} the same" if same else ""
    return "\n".join([f"{title}:", *(f"  {line}" for line in lines), *([f"  {rest}"] if rest else [])])


def _check(check: CheckChange) -> str:
    before, after = (status.value if status else "absent" for status in (check.a, check.b))
    message = f": {check.message}" if check.message else ""
    return f"{check.change.value:<6}  {check.id}: {before} -> {after}{message}{_caution(check.caution)}"


def _number(number: NumberChange) -> str:
    before, after = (
        value(Measurement(number.name, one, number.unit, Evidence.MEASURED, "")).text
        for one in (number.a, number.b)
    )
    ratio = "" if number.ratio is None else f", x{number.ratio:.3g}"
    scatter = "" if number.significance is Significance.UNKNOWN else f" ({number.significance.value})"
    head = f"{number.change.value:<6}  {number.check} {number.name}"
    return f"{head}: {before} -> {after}{ratio}{scatter}{_caution(number.caution, 'not compared: ')}"


def _op(op: OpChange) -> str:
    before, after = (verdict.value if verdict else "not called" for verdict in (op.a, op.b))
    where = " ".join(part for part in (op.module, op.source) if part)
    dtypes = ", ".join(op.dtypes)
    return f"{op.change.value:<6}  {op.op} ({dtypes}): {before} -> {after} {where}".rstrip() + _caution(
        op.caution
    )


def _caution(caution: str, lead: str = "") -> str:
    return f" [{lead}{caution}]" if caution else ""
