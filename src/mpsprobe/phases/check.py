"""State the checks of a phase, each with its assertion, and record their outcomes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from mpsprobe.run import Check, CheckData, Evidence, Measurement, Phase, Status, Table

if TYPE_CHECKING:
    from mpsprobe.device.virtual.observer import Finding

#: The type of the link that the checks of a phase examine.
Link = TypeVar("Link")


@dataclass
class Result:
    """The outcome of one check; its fields have the meaning of those of `run.Check`."""

    status: Status
    message: str = ""
    remedy: str = ""
    evidence: Evidence | None = None
    device: str = "host"
    measurements: list[Measurement] = field(default_factory=list)
    table: Table | None = None
    data: CheckData | None = None
    output: str = ""
    blocked_by: Phase | None = None


@dataclass(frozen=True)
class CheckSpec(Generic[Link]):
    """A check of a phase, made by calling it with the phase's link.

    Attributes:
        phase: The phase that it belongs to.
        name: A name that is unique in the phase.
        title: The assertion, as a sentence without a full stop.
        function: The function that makes the check on the link of its phase.
        link: Whether the check represents the link itself. When the link cannot be made, this check fails and
            blocks the other checks of the phase.
    """

    phase: Phase
    name: str
    title: str
    function: Callable[[Link], Result]
    link: bool = False

    @property
    def id(self) -> str:
        """Return the id of the check, which is unique in a run: `transfer.dtypes`."""
        return f"{self.phase.value}.{self.name}"

    def __call__(self, link: Link) -> Result:
        """Make the check on the phase's link, and return the result."""
        return self.function(link)

    def check(self, result: Result, duration_s: float) -> Check:
        """Return the record of a finished check for the run's document.

        Args:
            result: The outcome of the check.
            duration_s: The time that it took in seconds.
        """
        return Check(
            id=self.id,
            phase=self.phase,
            title=self.title,
            status=result.status,
            evidence=result.evidence,
            device=result.device,
            message=_encodable(result.message),
            remedy=_encodable(result.remedy),
            measurements=result.measurements,
            table=result.table and Table(result.table.columns, _encodable(result.table.rows)),
            data=result.data and msgspec.convert(_encodable(msgspec.to_builtins(result.data)), CheckData),
            output=_encodable(result.output),
            blocked_by=result.blocked_by,
            duration_s=round(duration_s, 4),
        )


def _encodable(value: Any) -> Any:
    """Return a value with every lone surrogate in its texts replaced by `?`, because JSON cannot hold them."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    if isinstance(value, dict):
        return {name: _encodable(item) for name, item in value.items()}
    return value


class Checks(list["CheckSpec[Link]"], Generic[Link]):
    """The checks of one phase, in order; the decorator `add` appends to them.

    >>> CHECKS: Checks[Loaded] = Checks(Phase.TRANSFER)
    >>> @CHECKS.add("dtypes", "Every parameter has the dtype asked for")
    ... def _dtypes(loaded: Loaded) -> Result: ...
    """

    def __init__(self, phase: Phase) -> None:
        super().__init__()
        self.phase = phase

    def add(
        self, name: str, title: str, *, link: bool = False
    ) -> Callable[[Callable[[Link], Result]], Callable[[Link], Result]]:
        """Return a decorator that adds a function to the checks of this phase; see `CheckSpec` for the arguments."""

        def register(function: Callable[[Link], Result]) -> Callable[[Link], Result]:
            self.append(CheckSpec(self.phase, name, title, function, link))
            return function

        return register


class LinkFailed(Exception):  # noqa: N818 - it is an outcome of the target, not an error of the program
    """A link of the chain could not be made: its phase fails, and later phases are blocked.

    Attributes:
        phase: The phase of the link.
        result: The result of the check that represents the link.
        refused: The ops that the virtual device had refused by then, if it continues past refusals.
    """

    def __init__(self, phase: Phase, result: Result) -> None:
        self.phase = phase
        self.result = result
        self.refused: list[Finding] = []
        super().__init__(f"{phase.label}: {result.message}")


class Stopwatch:
    """Measure the wall time of a block in seconds; read `seconds` after the block."""

    seconds: float

    def __enter__(self) -> Stopwatch:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: Any) -> None:
        self.seconds = time.perf_counter() - self._start
