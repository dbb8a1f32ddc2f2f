"""What a run holds when it is a prediction: what was built, assumed and refused, without weights or device."""

from __future__ import annotations

import msgspec

from mpsprobe.run.records import Refusal


class AssumedValue(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A value that nothing computed.

    Attributes:
        value: what was assumed, in words.
        op: the op whose result it is.
        source: `file:line`.
        count: how often.
        dependents: `op at file:line` of each branch or size that it decided.
    """

    value: str
    op: str
    source: str
    count: int
    dependents: list[str]


class HostWait(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A line where the host waits for the device, or where memory crosses between them."""

    kind: str
    module: str
    source: str
    count: int
    bytes: int


class Quantisation(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How a checkpoint is quantised, and what loading it does on a Mac.

    Attributes:
        method: name and bits.
        outcome: `raises`, `packed`, `dequantises`, `ignored` (nothing raises, and the weights are wrong) or `unknown`.
        error: what loading raises; empty when it does not.
        fix: what helps; empty when nothing is known.
        checkpoint_bytes: size of the weights at the bits of the checkpoint.
        sentences: what loading does, and with which packages.
        routes: what computes with such bits natively on a Mac.
        mlx_loads: mlx-lm loads the checkpoint as it is, as far as its config shows.
    """

    method: str
    outcome: str
    error: str
    fix: str
    checkpoint_bytes: int
    sentences: list[str]
    routes: list[str]
    mlx_loads: bool = False


class ReleaseSummary(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The target on one torch release.

    Attributes:
        torch: minor release.
        op_uses: distinct op uses by verdict.
        calls: calls by verdict.
        findings: kinds of refusals with their count.
        not_native: ops by verdict, without `native` and `composite`.
        fully_native: nothing falls back, raises, is wrong or unknown.
        stopped: why the model's code ended early, or why nothing was run.
    """

    torch: str
    op_uses: dict[str, int]
    calls: dict[str, int]
    findings: dict[str, int]
    not_native: dict[str, list[str]]
    fully_native: bool
    stopped: str = ""


class Hazard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A known fault that a target meets, may meet, or would meet in a larger workload.

    Attributes:
        advisory: id of the advisory.
        title: what goes wrong.
        severity: `critical`, `high`, `medium` or `low`.
        symptom: `wrong`, `nan`, `abort`, `hang`, `leak`, `raises` or `slow`.
        certainty: `certain` only when every condition was seen to hold.
        reached: the model's own maximum length meets it, where this workload does not.
        why: why it is not certain; empty when it is.
        from_tokens: smallest number of tokens that meets it, where that decides; None where it does not.
        fix: what to do.
        calls: number of calls concerned.
        op: the op of the first of them.
        source: `file:line` of the first of them.
        listed: whether it belongs in a short list; the others need unusual circumstances or do little harm.
    """

    advisory: str
    title: str
    severity: str
    symptom: str
    certainty: str
    reached: bool = False
    why: str = ""
    from_tokens: int | None = None
    fix: str = ""
    calls: int = 0
    op: str = ""
    source: str = ""
    listed: bool = True

    @property
    def is_met(self) -> bool:
        """Whether this workload, or the longest that the model takes, meets it for certain."""
        return self.certainty == "certain" or self.reached


class Predicted(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The part of a run that only a prediction has.

    Attributes:
        doing: what was run: `"generate, 8 new tokens"`.
        inputs: its input, one line each.
        notes: what was decided for the user.
        dtypes: parameters by dtype.
        quantisation: of the checkpoint; None for one that is not quantised. The ops are those of plain weights.
        refusals: what the target Mac refuses, in PyTorch's words.
        hazards: known faults that the op uses meet, may meet, or would meet in a larger workload; the worst first.
        host_waits: lines where the host waits.
        assumptions: values that nothing computed.
        unknowns: what the prediction cannot say.
        stopped: why the model's code ended early; empty when it did not.
        next_step: what to do about that, where the made-up input did not fit.
        releases: the target over torch releases, oldest first; empty when one release was asked about.
        first_fully_native: the release from which on every release is fully native; None when none is.
    """

    doing: str
    inputs: list[str]
    notes: list[str]
    dtypes: dict[str, int]
    quantisation: Quantisation | None = None
    refusals: list[Refusal] = []
    hazards: list[Hazard] = []
    host_waits: list[HostWait] = []
    assumptions: list[AssumedValue] = []
    unknowns: list[str] = []
    stopped: str = ""
    next_step: str = ""
    releases: list[ReleaseSummary] = []
    first_fully_native: str | None = None
