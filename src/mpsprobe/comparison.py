"""What a comparison of two runs says: the document of `mpsprobe compare --json`."""

from __future__ import annotations

import enum

import msgspec

from mpsprobe.run import Evidence, OpVerdict, Status


class Change(str, enum.Enum):
    """From A to B."""

    WORSE = "worse"
    LOST = "lost"  #: A knew it, B does not: not checked, skipped, or an error of the harness
    OTHER = "other"  #: different, and neither better nor worse
    GAINED = "gained"  #: B knows it, A did not
    BETTER = "better"
    SAME = "same"

    @property
    def order(self) -> int:
        """0 for what is to be read first."""
        return list(Change).index(self)


class Side(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a run was, as far as it matters beside another."""

    id: str
    started: str
    target: str
    dtype: str
    device: str
    evidence: list[Evidence]
    machine: str
    os: str
    packages: dict[str, str]
    cut_off: bool


class CheckChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A check whose status, evidence or device differs; a status is None where the run had no such check."""

    id: str
    title: str
    change: Change
    a: Status | None
    b: Status | None
    message: str
    caution: str = ""


class Significance(str, enum.Enum):
    """Whether a difference is more than the scatter of rounds."""

    SIGNIFICANT = "significant"
    WITHIN = "within the scatter"
    UNKNOWN = "unknown"  #: taken once, or the scatter was not written down


class NumberChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A measurement that both runs have.

    Attributes:
        check, name, unit: which.
        a, b: the values.
        ratio: b / a; None when they must not be compared (`caution` says why) or a is 0.
        significance: of the difference.
        change: judged where the unit has a better side.
        caution: why the numbers were not compared.
    """

    check: str
    name: str
    unit: str
    a: float | int
    b: float | int
    ratio: float | None
    significance: Significance
    change: Change
    caution: str = ""


class OpChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An op (with its input dtypes) whose worst verdict differs; None where a run does not call it."""

    op: str
    dtypes: list[str]
    change: Change
    a: OpVerdict | None
    b: OpVerdict | None
    calls_a: int
    calls_b: int
    module: str
    source: str
    caution: str = ""


class Comparison(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A and B, worst first in each list.

    Attributes:
        a, b: the runs.
        cautions: what keeps parts of them from being compared, one sentence each.
        checks, measurements, ops: what changed; measurements also where nothing did.
        same_checks, same_ops: how many are as they were.
        worse: whether anything of B is worse than of A.
    """

    a: Side
    b: Side
    cautions: list[str]
    checks: list[CheckChange]
    measurements: list[NumberChange]
    ops: list[OpChange]
    same_checks: int
    same_ops: int
    worse: bool
