"""What a comparison layer by layer found: the document of `mpsprobe diverge --json`."""

from __future__ import annotations

import enum

import msgspec

from mpsprobe.run import Evidence, OpUse

#: Stands for code that runs outside every module: sampling, a flow's integration, the adapter.
OUTSIDE = "(outside every module)"


class Verdict(str, enum.Enum):
    """Of one module."""

    MAKES = "makes"  #: beyond the limit although it was given the reference's own inputs
    CARRIES = (
        "carries"  #: beyond the limit, by inputs that are off; its own part is within, or was not looked at
    )
    SOUND = "sound"  #: within the limit
    UNKNOWN = "unknown"  #: nothing of it could be compared


class Judged(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tensor against its limits: of all that were compared, the one that is worst by `ratio`.

    Attributes:
        call: number of the module's call in the pass, from 0.
        place: of the tensor in the module's output; for an argument of another module, which one.
        error: root mean square of the difference, relative to that of the reference; None with a `problem`.
        noise: the same for the noise run, its worst call of the module; None when there was no noise run.
        limit: of `error`.
        ratio: the larger of error / limit and the same for the worst part; None with a `problem`.
        problem: what no number can say: another shape, NaN that the reference does not have.
        excused: the problem is not the device's: the noise run has it too, so it is the dtype's; or `reshaped`.
        reshaped: another shape, by the code of another transformers release than the reference's.
    """

    call: int
    place: str
    error: float | None
    noise: float | None
    limit: float
    ratio: float | None
    problem: str = ""
    excused: bool = False
    reshaped: bool = False

    @property
    def diverges(self) -> bool:
        """Beyond its limit."""
        return not self.excused and (bool(self.problem) or (self.ratio is not None and self.ratio > 1))

    @property
    def rank(self) -> float:
        """Larger is worse."""
        if self.problem:
            return -1.0 if self.excused else float("inf")
        return self.ratio or 0.0


class Layer(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One module in one stage.

    Attributes:
        stage: `"forward"` or `"inference"`.
        module: its path; `""` for the model itself, `OUTSIDE` for code around it.
        kind: its class.
        calls: how often it was called.
        accumulated: its output, with the errors of all that came before in the pass (in the step, in inference).
        local: the error that its own code makes, given the reference's inputs; None when not looked at.
    """

    stage: str
    module: str
    kind: str
    calls: int
    accumulated: Judged | None = None
    local: Judged | None = None
    verdict: Verdict = Verdict.UNKNOWN

    @property
    def rank(self) -> tuple[bool, float]:
        """Larger is worse: what makes errors stands before what carries them."""
        ranks = [judged.rank for judged in (self.local, self.accumulated) if judged is not None]
        return self.verdict is Verdict.MAKES, max(ranks, default=0.0)


class OutputRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One named result of a stage, run freely.

    Attributes:
        stage, name: which.
        error, limit: as in `Judged`; None for text, or when it was not judged.
        same: equal, element by element.
        judged: False where a free run feeds on itself, so that rounding alone may change everything.
        problem: as in `Judged`.
    """

    stage: str
    name: str
    error: float | None
    limit: float | None
    same: bool
    judged: bool
    problem: str = ""

    @property
    def diverges(self) -> bool:
        """Beyond its limit."""
        if not self.judged:
            return False
        return bool(self.problem) or (
            self.error is not None and self.limit is not None and self.error > self.limit
        )


class StageSummary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a stage was compared.

    Attributes:
        stage: which.
        calls: module calls of the reference.
        compared: those of the device that could be set against them.
        forcing: `"free"`, or `"steps"` when each step starts from the reference's outcome of the one before.
        unmatched: calls that only the device made.
        unforced: tensors that were not held to the reference although the step should have been.
    """

    stage: str
    calls: int
    compared: int
    forcing: str
    unmatched: int = 0
    unforced: int = 0


class Culprit(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The first module that diverges, in the order of the pass.

    Attributes:
        stage, module, kind: which.
        verdict: `makes` when its own error is the cause, `carries` when only the sum of errors is known.
        judged: its first tensor beyond the limit.
        op_uses: the ATen calls of its own code, as recorded on the device, most calls first.
        advisories: ids of known faults that those calls meet.
    """

    stage: str
    module: str
    kind: str
    verdict: Verdict
    judged: Judged
    op_uses: list[OpUse] = msgspec.field(default_factory=list)
    advisories: list[str] = msgspec.field(default_factory=list)


class Side(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of the two runs that were compared.

    Attributes:
        label: for people.
        device: `"mps"`, `"emulated"`, `"cuda"`, `"cpu"`.
        dtype: of the weights.
        evidence: how its numbers are known.
        chip: of the machine.
        torch, transformers: releases.
    """

    label: str
    device: str
    dtype: str
    evidence: Evidence
    chip: str = ""
    torch: str = ""
    transformers: str = ""


class Divergence(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Everything one comparison learnt.

    Attributes:
        schema: form of this document.
        mpsprobe: version of the tool.
        target: name of the model.
        subject: what was looked at.
        reference: what it was compared with.
        criterion: when a layer counts as diverging, in sentences.
        stages: how each was compared.
        outputs: named results.
        layers: every module, worst first.
        first: the first that diverges; None when none does.
        notes: what the comparison does not say, or did differently.
    """

    schema: int = 1
    mpsprobe: str
    target: str
    subject: Side
    reference: Side
    criterion: list[str]
    stages: list[StageSummary]
    outputs: list[OutputRow]
    layers: list[Layer]
    first: Culprit | None
    notes: list[str] = msgspec.field(default_factory=list)

    @property
    def diverges(self) -> bool:
        """Whether any layer or output is beyond its limit."""
        return self.first is not None or any(row.diverges for row in self.outputs)
