"""Prepare checks for reports: texts, numbers and tables without control characters, not yet escaped."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from mpsprobe import quantities
from mpsprobe.quantities import plural
from mpsprobe.report import wording
from mpsprobe.report.templating import clean, tail
from mpsprobe.report.wording import ANSWER, EVIDENCE, STATUS, Word, evidence_word
from mpsprobe.run import Check, Evidence, Measurement, Run, Status, Table

#: The number of lines of output in a report; run.json has them all.
OUTPUT_LINES = 60

#: The table of a passed check is folded when it has more rows.
FOLD_ROWS = 10


@dataclass(frozen=True)
class Number:
    """A measurement as text.

    Attributes:
        name: The name of the measurement.
        value: The value for readers, with its unit.
        exact: The value as it was recorded, where `value` rounds or scales it; else empty.
        wordy: Whether the value is not a number.
        evidence: The word for its evidence.
        device: The device that it was obtained on.
        check: The id of its check.
        where: The device to show beside the evidence; empty where the evidence names it.
    """

    name: str
    value: str
    exact: str
    wordy: bool
    evidence: Word
    device: str
    check: str
    where: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell of a table; `status` is the word whose icon is shown with it, if any, `column` the name of its column."""

    text: str
    number: bool
    status: Word | None
    column: str = ""


@dataclass(frozen=True)
class Column:
    """A column's name, and whether every filled cell in it is a number."""

    text: str
    number: bool


@dataclass(frozen=True)
class Grid:
    """A table as a template prints it; `fold` is the line that opens a folded table, empty for one that is open."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    fold: str


@dataclass(frozen=True)
class CheckView:
    """A check as reports show it; `see` is the anchor of its details where another section shows them, else empty."""

    id: str
    anchor: str
    phase: str
    title: str
    status: Word
    evidence: Word
    device: str
    where: str
    message: str
    remedy: str
    numbers: tuple[Number, ...]
    grid: Grid | None
    output: str
    duration: str
    see: str = ""


def check_views(checks: list[Check], run: Run) -> dict[str, CheckView]:
    """Return the view of each check by its id; anchors differ even where ids differ only in punctuation."""
    seen: dict[str, int] = defaultdict(int)
    views = {}
    for check in checks:
        slug = "check-" + re.sub(r"[^A-Za-z0-9._-]+", "-", check.id)
        seen[slug] += 1
        views[check.id] = _view(check, slug if seen[slug] == 1 else f"{slug}-{seen[slug]}", run)
    return views


def _view(check: Check, anchor: str, run: Run) -> CheckView:
    shown_above = run.interruption is not None and check.output == run.interruption.output
    return CheckView(
        id=clean(check.id),
        anchor=anchor,
        phase=check.phase.label,
        title=clean(check.title),
        status=STATUS[check.status],
        evidence=evidence_word(check.evidence),
        device=clean(check.device),
        where=where(check.device, check.evidence),
        message=clean(check.message),
        remedy=clean(check.remedy),
        numbers=tuple(number(each, check) for each in check.measurements),
        grid=grid(check.table, folds=check.status is Status.PASS) if check.table else None,
        output="" if shown_above or not check.output.strip() else tail(check.output, OUTPUT_LINES),
        duration=spent(check.duration_s),
    )


def spent(duration_s: float) -> str:
    """Format a wall time; return an empty string when none was measured."""
    return quantities.seconds(duration_s) if duration_s else ""


def number(measurement: Measurement, check: Check) -> Number:
    """Format a measurement of a check as text."""
    value = wording.value(measurement)
    return Number(
        name=clean(measurement.name),
        value=clean(value.text),
        exact=clean(value.exact),
        wordy=not isinstance(measurement.value, int | float),
        evidence=EVIDENCE[measurement.evidence],
        device=clean(measurement.device),
        check=clean(check.id),
        where=where(measurement.device, measurement.evidence),
    )


def where(device: str, evidence: Evidence | None) -> str:
    """Return the device to show beside the evidence; empty where both are the same word, such as `emulated`."""
    return "" if evidence is not None and device == evidence.value else clean(device)


def grid(table: Table, *, folds: bool = False) -> Grid:
    """Convert a table so that every row has as many cells as there are columns.

    Args:
        table: The table of a check or an outlook.
        folds: Whether to fold the table behind one line when it has more than `FOLD_ROWS` rows.
    """
    width = max([len(table.columns), *(len(row) for row in table.rows)], default=0)
    names = [clean(name) for name in table.columns] + [""] * (width - len(table.columns))
    rows = [
        tuple(
            _cell(value, name)
            for value, name in zip([*row, *[None] * (width - len(row))], names, strict=True)
        )
        for row in table.rows
    ]
    columns = []
    for at, name in enumerate(names):
        filled = [row[at] for row in rows if row[at].text]
        columns.append(Column(name, number=bool(filled) and all(cell.number for cell in filled)))
    long = folds and len(rows) > FOLD_ROWS
    return Grid(tuple(columns), tuple(rows), fold=plural(len(rows), "row") if long else "")


def _cell(value: str | float | None, column: str) -> Cell:
    if value is None:
        return Cell("", number=False, status=None, column=column)
    if isinstance(value, bool):
        return Cell("yes" if value else "no", number=False, status=None, column=column)
    if isinstance(value, str):
        return Cell(clean(value), number=False, status=_word(value, column.lower()), column=column)
    return Cell(quantities.plain(value), number=True, status=None, column=column)


def _word(value: str, column: str) -> Word | None:
    if column in ("status", "verdict") and value in {status.value for status in Status}:
        return STATUS[Status(value)]
    return ANSWER.get(value) if column == "answer" else None
