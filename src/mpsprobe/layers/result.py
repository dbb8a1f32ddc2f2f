"""The result of a comparison layer by layer: the document of `mpsprobe diverge --json`."""

from __future__ import annotations

import enum

import msgspec

from mpsprobe.run import Evidence, OpUse

#: The name of code that runs outside every module: sampling, a flow's integration, the adapter.
OUTSIDE = "(outside every module)"


class Verdict(str, enum.Enum):
    """Whether a module makes an error, passes one on, or agrees with the reference."""

    MAKES = "makes"  #: beyond the limit although it received the reference's own inputs
    CARRIES = (
        "carries"  #: beyond the limit because of its inputs; its own error is within it, or was not measured
    )
    SOUND = "sound"  #: within the limit
    UNKNOWN = "unknown"  #: none of its tensors could be compared


class Judged(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tensor compared with its limits; in a `Layer` the worst of the module's compared tensors by `rank`.

    Attributes:
        call: The number of the module's call in the pass, from 0.
        place: The place of the tensor in the module's output; for an argument of another module, which one.
        error: The root mean square of the difference, relative to that of the reference; None with a `problem`.
        noise: The same for the noise run, in its worst call of the module; None when there was no noise run.
        limit: The limit of `error`.
        ratio: The larger of error / limit and the same for the worst part; None with a `problem`.
        problem: What a number cannot express: another shape, or NaN that the reference does not have.
        excused: Whether the problem is not the device's fault: the noise run has it too, so the dtype causes it, or
            `reshaped`.
        reshaped: Whether the shape differs because the code of another transformers release made it.
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
        """Return whether the error exceeds its limit or there is a problem, unless it is excused."""
        return not self.excused and (bool(self.problem) or (self.ratio is not None and self.ratio > 1))

    @property
    def rank(self) -> float:
        """Return a key for sorting, larger for a worse tensor: infinite with a problem, or -1 if that is excused."""
        if self.problem:
            return -1.0 if self.excused else float("inf")
        return self.ratio or 0.0


class Layer(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The comparison of one module in one stage.

    Attributes:
        stage: `"forward"` or `"inference"`.
        module: The path of the module; `""` for the model itself, `OUTSIDE` for code around it.
        kind: The class of the module.
        calls: The number of its calls.
        accumulated: Its worst tensor with the errors of everything earlier in the pass, or in the step where each step
            starts from the reference's; None when none was compared.
        local: Its worst tensor when its code runs on the reference's inputs; None when that was not measured.
        verdict: The verdict on the module.
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
        """Return a sort key; a larger one is worse, and modules that make errors rank above those that carry them."""
        ranks = [judged.rank for judged in (self.local, self.accumulated) if judged is not None]
        return self.verdict is Verdict.MAKES, max(ranks, default=0.0)


class OutputRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The comparison of one named result of a stage that ran freely.

    Attributes:
        stage: The stage.
        name: The name of the result.
        error: The error as in `Judged`; None for text and with a problem.
        limit: The limit as in `Judged`; None for text and for a result that is missing.
        same: Whether it is equal, element by element.
        judged: Whether it counts. False for text and for tensors of other than floating-point numbers, with an excused
            problem, and where a free run feeds on itself, so that rounding alone may change everything.
        problem: The problem as in `Judged`.
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
        """Return whether the result is judged and has a problem or an error beyond its limit."""
        if not self.judged:
            return False
        return bool(self.problem) or (
            self.error is not None and self.limit is not None and self.error > self.limit
        )


class StageSummary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a stage was compared.

    Attributes:
        stage: The stage.
        calls: The number of module calls of the reference.
        compared: The number of calls of the device that could be compared with them.
        forcing: `"free"`, or `"steps"` when each step starts from the reference's result of the previous one.
        unmatched: The number of calls that only the device made.
        unforced: The number of tensors that were not replaced by the reference's although the step required it.
    """

    stage: str
    calls: int
    compared: int
    forcing: str
    unmatched: int = 0
    unforced: int = 0


class FirstDivergence(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The first module that diverges, in the order of the pass.

    Attributes:
        stage: The stage.
        module: The path of the module.
        kind: The class of the module.
        verdict: `makes` when its own error is the cause, `carries` when only the sum of errors is known.
        judged: Its first tensor beyond the limit.
        op_uses: The op uses of its own code, as recorded on the device, most calls first, at most 40.
        advisories: The ids of the advisories that its op uses meet, in alphabetical order.
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
        label: The name for readers.
        device: `"mps"`, `"emulated"`, `"cuda"` or `"cpu"`.
        dtype: The coarsest floating-point dtype in which it computes.
        evidence: The evidence of its values.
        chip: The chip of the machine.
        torch: The torch release.
        transformers: The transformers release.
    """

    label: str
    device: str
    dtype: str
    evidence: Evidence
    chip: str = ""
    torch: str = ""
    transformers: str = ""


class Divergence(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The document of a comparison: its two sides, its layers and its outputs.

    Attributes:
        schema: The version of this document's schema.
        mpsprobe: The version of mpsprobe.
        target: The name of the model.
        subject: The run that was judged.
        reference: The run that it was compared with.
        criterion: Sentences that state when a layer counts as diverging.
        stages: How each stage was compared.
        outputs: The named results.
        layers: Every module, worst first.
        first: The first module that diverges; None when none does.
        notes: Sentences about what the comparison does not show, or did differently.
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
    first: FirstDivergence | None
    notes: list[str] = msgspec.field(default_factory=list)

    @property
    def diverges(self) -> bool:
        """Return whether any layer or output exceeds its limit."""
        return self.first is not None or any(row.diverges for row in self.outputs)
