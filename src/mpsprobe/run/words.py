"""The words that every room uses: phases, statuses, evidence levels, verdicts of op uses."""

from __future__ import annotations

import enum

#: What `--device` takes.
DEVICES = ("auto", "mps", "emulated", "cuda", "cpu")


class Phase(str, enum.Enum):
    """The ordered stages of the suite: six numbered phases, then the per-op checks and the benchmarks."""

    AVAILABILITY = "availability"
    PINS = "pins"
    DOWNLOAD = "download"
    TRANSFER = "transfer"
    DATA = "data"
    INFERENCE = "inference"
    OPS = "ops"
    BENCHMARK = "benchmark"

    @property
    def order(self) -> int:
        """1 for the first stage; phases one to six have the number that users know them by."""
        return list(Phase).index(self) + 1

    @property
    def marker(self) -> str:
        """The pytest marker: `phase1` ... `phase6`, `ops`, `benchmark`."""
        return f"phase{self.order}" if self.order <= 6 else self.value

    @property
    def label(self) -> str:
        """For people: `phase 3 (download)`, `ops`."""
        return f"phase {self.order} ({self.value})" if self.order <= 6 else self.value


class Status(str, enum.Enum):
    """How a check ended."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    BLOCKED = "blocked"  #: an earlier phase failed; `blocked_by` names it, the message says why
    SKIPPED = "skipped"  #: does not apply here, the message says why
    UNKNOWN = "unknown"  #: not checked, the message says what would be needed
    CRASHED = "crashed"  #: the process died under it
    TIMEOUT = "timeout"  #: past its limit
    ERROR = "error"  #: the harness itself failed: says nothing about the model


class Evidence(str, enum.Enum):
    """How we know, from weakest to strongest. Never let one pass for another."""

    PREDICTED = "predicted"  #: no weights, no device
    EMULATED = "emulated"  #: real values under MPS's rules, on another machine
    MEASURED = "measured"  #: on the named device itself


class OpVerdict(str, enum.Enum):
    """What happens to an op use on a Mac."""

    NATIVE = "native"
    COMPOSITE = "composite"
    FALLBACK = "fallback"
    RAISES = "raises"
    WRONG = "wrong"
    UNKNOWN = "unknown"
