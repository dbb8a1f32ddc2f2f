"""The part of a run that only a prediction has: what was built, assumed and refused without weights or a device."""

from __future__ import annotations

import msgspec

from mpsprobe.run.records import Refusal


class AssumedValue(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A value that the prediction assumed, because nothing computed it.

    Attributes:
        value: The assumption, in a few words.
        op: The op whose result it is.
        source: The place of the call as `file:line`.
        count: The number of times that it was assumed.
        dependents: `op at file:line` for each branch or size that the value decided.
    """

    value: str
    op: str
    source: str
    count: int
    dependents: list[str]


class HostWait(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A line where the host waits for the device, or where data is copied between the two.

    Attributes:
        kind: `"item"`, `"copy"`, `"data-dependent"`, `"fallback"` or `"synchronize"` for a wait; `"to-device"` or
            `"to-host"` for the data of a copy, whose wait is counted apart.
        module: The path of the innermost module.
        source: The place of the call as `file:line`.
        count: The number of times that it happens.
        bytes: The number of bytes that are copied.
    """

    kind: str
    module: str
    source: str
    count: int
    bytes: int

    @property
    def waits(self) -> bool:
        """Return whether the host waits here; else it is the data of a copy."""
        return self.kind not in ("to-device", "to-host")


class Quantisation(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How a checkpoint is quantised, and what loading it does on a Mac.

    Attributes:
        method: The name of the method, with its bits.
        outcome: `raises`, `packed`, `dequantises`, `ignored` (nothing raises, and the weights are wrong) or
            `unknown`.
        error: The error that loading raises; empty when it does not raise.
        fix: The fix; empty when none is known.
        checkpoint_bytes: The size of the weights in bytes at the bits of the checkpoint.
        sentences: Sentences that state what loading does, and which packages it needs.
        routes: Ways to compute with such bits natively on a Mac.
        mlx_loads: Whether mlx-lm loads the checkpoint as it is, as far as its config shows.
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
    """The prediction for one torch release.

    Attributes:
        torch: The minor release, such as `"2.9"`.
        op_uses: The number of distinct op uses by verdict.
        calls: The number of calls by verdict.
        findings: The number of refusals by kind.
        not_native: The ops by verdict, without those that are `native` or `composite`.
        fully_native: Whether no op falls back, raises, is wrong or is unknown.
        stopped: The reason why the model's code ended early or nothing was run; empty when it ran to its end.
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
        advisory: The id of the advisory.
        title: What goes wrong.
        severity: `critical`, `high`, `medium` or `low`.
        symptom: `wrong`, `nan`, `abort`, `hang`, `leak`, `raises` or `slow`.
        certainty: `certain` only when every condition was seen to hold.
        reached: Whether the model's maximum length meets it although this workload does not.
        why: The reason why it is not certain; empty when it is.
        from_tokens: The smallest number of tokens that meets it; None where the number of tokens does not decide.
        fix: The fix or workaround.
        calls: The number of calls concerned.
        op: The op of the first of these calls.
        source: The place of the first of these calls as `file:line`.
        listed: Whether a short list includes it. The others need unusual circumstances or do little harm.
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
        """Check whether this workload, or the longest one that the model takes, meets it for certain."""
        return self.certainty == "certain" or self.reached


class Predicted(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The part of a run that only a prediction has.

    Attributes:
        doing: What was run, such as `"generate, 8 new tokens"`.
        inputs: The input that was made up, one line each.
        notes: The decisions that were made for the user.
        dtypes: The number of parameters by dtype.
        quantisation: How the checkpoint is quantised; None when it is not. The op uses are those of plain
            weights.
        refusals: Everything that the target Mac refuses, with PyTorch's messages.
        hazards: Known faults that the op uses meet, may meet, or would meet in a larger workload; the worst
            first.
        host_waits: The lines where the host waits for the device.
        assumptions: The values that were assumed.
        unknowns: Sentences that state what the prediction cannot show.
        stopped: The reason why the model's code ended early; empty when it did not.
        next_step: The advice for a stop that the made-up input may have caused; empty without one.
        releases: The prediction for each torch release, oldest first; empty when only one release was requested.
        first_fully_native: The first release from which on every release is fully native; None when there is
            none.
        kept_since: The time at which it was made, when it was taken from the cache of predictions; empty otherwise.
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
    kept_since: str = ""
