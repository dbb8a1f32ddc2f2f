"""The words of a prediction: one typed document, JSON as `mpsprobe predict --json` prints it."""

from __future__ import annotations

from typing import Any

import msgspec

from mpsprobe.run import Outlook


class PredictedUse(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One distinct use of an op, with what becomes of it.

    Attributes:
        op: overload name as in PyTorch's messages.
        dtypes, shapes, strides: of its tensor arguments, in order, lists flattened; strides in elements.
        scalars: its other arguments by name.
        count: calls.
        module: path of the innermost module; `""` outside any.
        source: `file:line` of user code.
        verdict: `native`, `composite`, `fallback`, `raises`, `wrong` or `unknown`.
        via: the op that is really missing when `op` runs through others.
        reason: why it is not plainly native.
        grade: `certain`, `likely` (a route rebuilt here, or on some path only) or `assumed` (rests on an
            assumed value).
        advisories: ids of advisories of which every condition is met.
        possible_advisories: ids of those that depend on what is not known: macOS, chip, a mode.
        flops, bytes: of all calls; None when no formula is known.
    """

    op: str
    dtypes: list[str]
    shapes: list[tuple[int, ...]]
    strides: list[tuple[int, ...]]
    scalars: dict[str, Any]
    count: int
    module: str
    source: str
    verdict: str
    via: str = ""
    reason: str = ""
    grade: str = "certain"
    advisories: list[str] = []
    possible_advisories: list[str] = []
    flops: int | None = None
    bytes: int | None = None


class Total(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Sums over op uses of one verdict, or over all.

    Attributes:
        op_uses: distinct ones.
        ops: distinct overloads.
        calls: of all of them.
        flops: of the calls with a formula.
        flops_share: of all counted FLOPs, 0 ... 1; None when nothing was counted.
        bytes: least bytes moved, of the calls with a formula.
        uncounted_calls: those without a FLOP formula.
    """

    op_uses: int = 0
    ops: int = 0
    calls: int = 0
    flops: int = 0
    flops_share: float | None = None
    bytes: int = 0
    uncounted_calls: int = 0


class PredictedFinding(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Something that the device refuses: in PyTorch's own words, at a line.

    Attributes:
        kind: `missing-op`, `fallback`, `dtype`, `device`, `generator`, `limit`, `memory`, `autocast`,
            `quantisation` (loading the checkpoint raises).
        op: overload name; empty for memory.
        message: what PyTorch says on the Mac.
        grade: `certain`, `likely` or `assumed`.
        source: `file:line`.
        count: how often.
        fix: what helps, where that is known.
    """

    kind: str
    op: str
    message: str
    grade: str
    source: str
    count: int = 1
    fix: str = ""


class PredictedAssumption(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A value that nothing computed.

    Attributes:
        value: what was assumed, in words.
        op: whose result it is.
        source: `file:line`.
        count: how often.
        dependents: `op at file:line` of what branched on it or took a size from it.
    """

    value: str
    op: str
    source: str
    count: int
    dependents: list[str]


class HostWait(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A line where the host waits for the device, or memory crosses."""

    kind: str
    module: str
    source: str
    count: int
    bytes: int


class Quantisation(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How a checkpoint is quantised, and what loading it does on a Mac.

    Attributes:
        method: its name and bits.
        outcome: `raises`, `packed`, `dequantises` or `unknown`.
        error: what loading raises; empty when it does not.
        fix: what helps; empty when nothing is known.
        checkpoint_bytes: of the weights, by the bits of the checkpoint.
        sentences: what loading does, and with which packages.
        routes: what computes with such bits natively on a Mac.
    """

    method: str
    outcome: str
    error: str
    fix: str
    checkpoint_bytes: int
    sentences: list[str]
    routes: list[str]


class Model(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What was built and run.

    Attributes:
        name: as the user gave it.
        architecture: its class.
        parameters: their number, tied ones once.
        weight_bytes: of parameters and buffers.
        dtypes: parameters by dtype.
        inputs: in short.
        doing: what was run.
        notes: what was decided for the user.
        quantisation: of the checkpoint; None for one that is not quantised. Its ops are those of plain weights.
    """

    name: str
    architecture: str
    parameters: int
    weight_bytes: int
    dtypes: dict[str, int]
    inputs: list[str]
    doing: str
    notes: list[str]
    quantisation: Quantisation | None = None


class Prediction(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What one torch release on one Mac does with a target.

    Attributes:
        target: what was built and run.
        torch, macos, chip, memory_gb, fallback: the Mac asked about; None for what was left open.
        installed: versions of the torch and transformers that ran the code.
        evidence: always `"predicted"`.
        op_uses: each distinct one.
        totals: by verdict, and `"all"`.
        findings: what the device refuses, with its text.
        host_waits: where the host waits.
        assumptions: values that nothing computed.
        unknowns: what this prediction cannot say.
        stopped: why the model's code ended early; `""` when it did not.
        next_step: what to do about that, where the made-up input did not fit.
        outlook: what follows from it: memory and time, routes, a recommendation.
    """

    target: Model
    torch: str
    macos: str | None
    chip: str | None
    memory_gb: float | None
    fallback: bool
    installed: dict[str, str]
    evidence: str = "predicted"
    op_uses: list[PredictedUse]
    totals: dict[str, Total]
    findings: list[PredictedFinding]
    host_waits: list[HostWait]
    assumptions: list[PredictedAssumption]
    unknowns: list[str]
    stopped: str = ""
    next_step: str = ""
    outlook: Outlook = msgspec.field(default_factory=Outlook)

    @property
    def fully_native(self) -> bool:
        """Whether every op runs on the GPU and nothing is refused."""
        verdicts = set(self.totals) - {"all"}
        refused = [finding for finding in self.findings if finding.kind != "memory"]
        return verdicts <= {"native", "composite"} and not refused and not self.stopped


class ReleaseRow(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One torch release in the table over all.

    Attributes:
        torch: minor release.
        op_uses: distinct op uses by verdict.
        calls: calls by verdict.
        findings: what the device refuses, kinds with their count.
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


class Releases(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A target over all torch releases.

    Attributes:
        first_fully_native: the first release from which on nothing falls back, raises, is wrong or unknown,
            up to the newest; None when even that is not so.
    """

    target: Model
    macos: str | None
    chip: str | None
    memory_gb: float | None
    fallback: bool
    installed: dict[str, str]
    evidence: str = "predicted"
    releases: list[ReleaseRow]
    first_fully_native: str | None
    unknowns: list[str]
