"""Draw many runs as one matrix of verdicts, by model, torch release, macOS version and chip.

Each CI runner or Mac of a fleet writes one run.json; the matrix is drawn from those documents only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from mpsprobe.quantities import enumerate_words, plural
from mpsprobe.report.checkview import where
from mpsprobe.report.headline import is_prediction, verdict
from mpsprobe.report.templating import clean, fill
from mpsprobe.report.wording import STATUS, Word, evidence_word
from mpsprobe.run import Evidence, Run, Status


class MatrixEntry(msgspec.Struct, kw_only=True, frozen=True):
    """One run, with its place in the matrix.

    Attributes:
        target: The name of the target.
        torch: The torch release whose rules or kernels the run used.
        macos: The macOS version of the target Mac; empty when unknown.
        chip: Its chip; empty when unknown.
        memory_gb: Its memory in GB as sold; None when unknown.
        device: The device of the run, or `"predicted"`.
        status: The worst status of the run.
        state: The word for that status in a report, such as `"interrupted"`.
        evidence: The weakest evidence behind it; None when nothing was learnt.
        virtual_gpu: Whether the GPU was a CI runner's virtual one, which is no evidence for real Macs.
        sentence: The verdict in one sentence.
        run: The id of the run.
        started: When it started, in UTC (ISO 8601).
    """

    target: str
    torch: str
    macos: str
    chip: str
    device: str
    status: Status
    state: str
    evidence: Evidence | None
    virtual_gpu: bool
    sentence: str
    run: str
    started: str
    memory_gb: float | None = None


class Matrix(msgspec.Struct, frozen=True):
    """The newest run on each target and machine, sorted by target, torch release and machine."""

    entries: list[MatrixEntry]

    @property
    def worst(self) -> Status:
        """Return the worst status of all runs; `unknown` when there are none."""
        order = list(Status)
        return max((entry.status for entry in self.entries), key=order.index, default=Status.UNKNOWN)


@dataclass(frozen=True)
class CellView:
    """One cell as a template prints it; `word` is None where the target was not run."""

    column: str
    word: Word | None
    state: str
    evidence: Word | None


@dataclass(frozen=True)
class RowView:
    """A target and its cells, one for each column, as a template prints them."""

    target: str
    cells: tuple[CellView, ...]


@dataclass(frozen=True)
class RunView:
    """A run with its words for status and evidence, as a template prints it."""

    status: Word
    state: str
    evidence: Word
    entry: MatrixEntry
    where: str


@dataclass(frozen=True)
class MatrixView:
    """The matrix as a template prints it: a title, a summary, the cells and the list of runs."""

    title: str
    summary: str
    columns: tuple[str, ...]
    rows: tuple[RowView, ...]
    runs: tuple[RunView, ...]


def merge(runs: Iterable[Run]) -> Matrix:
    """Combine runs into a matrix; among runs on one target and machine the newest is kept."""
    newest: dict[tuple[str, str], MatrixEntry] = {}
    for run in runs:
        entry = _entry(run)
        key = entry.target, column(entry)
        if key not in newest or newest[key].started <= entry.started:
            newest[key] = entry
    return Matrix(
        sorted(newest.values(), key=lambda entry: (entry.target, _release(entry.torch), column(entry)))
    )


def column(entry: MatrixEntry) -> str:
    """Return the name of an entry's column: torch release, chip with memory, macOS and device."""
    memory = f" {entry.memory_gb:g} GB" if entry.chip and entry.memory_gb is not None else ""
    parts = (
        f"torch {entry.torch}" if entry.torch else "",
        f"{entry.chip}{memory}",
        f"macOS {entry.macos}" if entry.macos else "",
        f"{entry.device} (virtual GPU)" if entry.virtual_gpu else entry.device,
    )
    return ", ".join(part for part in parts if part)


def markdown(matrix: Matrix) -> str:
    """Return the matrix as Markdown, for a job summary or a pull request."""
    return fill("matrix.md.j2", matrix=_view(matrix))


def document(matrix: Matrix) -> bytes:
    """Return the matrix as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(matrix), indent=2) + b"\n"


def html(matrix: Matrix) -> str:
    """Return the matrix as one self-contained HTML page."""
    return fill("matrix.html.j2", matrix=_view(matrix))


def _entry(run: Run) -> MatrixEntry:
    headline = verdict(run)
    mac = run.mac
    return MatrixEntry(
        target=clean(run.target.name),
        torch=clean(mac.torch if mac is not None else run.host.packages.get("torch", "")),
        macos=clean(mac.macos or "" if mac is not None else ""),
        chip=clean(mac.chip or "" if mac is not None else ""),
        memory_gb=mac.memory_gb if mac is not None else None,
        device="predicted" if is_prediction(run) else clean(run.device.used),
        status=headline.status,
        state=headline.word,
        evidence=headline.evidence,
        virtual_gpu=run.host.virtual_gpu,
        sentence=clean(headline.sentence),
        run=clean(run.id),
        started=clean(run.started),
    )


def _release(version: str) -> list[int]:
    return [int(part) if part.isdigit() else 0 for part in version.partition("+")[0].split(".")]


#: The states of a prediction, beside its evidence.
_STATES = {
    "predicted to run": "runs",
    "predicted to run with changes": "runs with changes",
    "predicted not to run": "does not run",
    "predicted in part": "known in part",
}


def _view(matrix: Matrix) -> MatrixView:
    columns = list(dict.fromkeys(column(entry) for entry in sorted(matrix.entries, key=_by_column)))
    found = {(entry.target, column(entry)): entry for entry in matrix.entries}
    targets = list(dict.fromkeys(entry.target for entry in matrix.entries))
    states = Counter(entry.state for entry in matrix.entries)
    return MatrixView(
        title=f"mpsprobe: {plural(len(targets), 'target')} on {plural(len(columns), 'machine')}",
        summary=f"{plural(len(matrix.entries), 'run')}: {enumerate_words(_states(states))}.",
        columns=tuple(columns),
        rows=tuple(
            RowView(target, tuple(_cell(name, found.get((target, name))) for name in columns))
            for target in targets
        ),
        runs=tuple(
            RunView(
                STATUS[entry.status],
                _state(entry),
                evidence_word(entry.evidence),
                entry,
                where(entry.device, entry.evidence),
            )
            for entry in matrix.entries
        ),
    )


def _states(states: Counter[str]) -> list[str]:
    return [f"{count:,} {state}" for state, count in states.most_common()]


def _by_column(entry: MatrixEntry) -> tuple[Sequence[int], str]:
    return _release(entry.torch), column(entry)


def _cell(name: str, entry: MatrixEntry | None) -> CellView:
    if entry is None:
        return CellView(name, None, "not run", None)
    return CellView(name, STATUS[entry.status], _state(entry), evidence_word(entry.evidence))


def _state(entry: MatrixEntry) -> str:
    """Return an entry's state without the word "predicted", which its evidence states: `runs with changes`."""
    return _STATES.get(entry.state, entry.state)
