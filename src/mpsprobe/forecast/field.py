"""A field report: what a Mac measured, small and anonymous, which its owner may attach to an issue.

It holds the chip, the releases, rates, timings and verdicts. It holds no path, no name, no token and no text of a
model. Nothing is sent by this program. `tools/field.py` checks such files, adds them to the measured points and refits.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from mpsprobe.errors import DataError
from mpsprobe.forecast.calibration import Calibration
from mpsprobe.run import Evidence, Host, OpVerdict, Run

FILE = "field-report.json"
VERSION = 1
#: What a report is accepted with: names of chips, classes, ops, checks, releases and units.
_WORD = re.compile(r"[A-Za-z0-9_.,:+ ()\[\]x-]{0,120}")
#: What no report may hold, whatever its form.
_PRIVATE = re.compile(r"hf_[A-Za-z0-9]{8,}|[\w.]+@[\w.]+|(?:^|[\s\"'])[/~][\w.]|\\|https?:", re.IGNORECASE)


class Figure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One measured time or rate.

    Attributes:
        what: `"matmul float16"`, `"time per sample"`, `"weights"` ...
        value: the figure.
        unit: `"TFLOP/s"`, `"GB/s"`, `"us"`, `"s"`, `"bytes"`.
    """

    what: str
    value: float
    unit: str


class FieldReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One report.

    Attributes:
        version: of this schema.
        made_by: `"calibrate"` or `"run"`.
        mpsprobe, torch, transformers, python, macos: releases; empty where unknown.
        chip: as macOS writes it; gpu_cores, memory_gb: of it, where known.
        day: UTC, `"2026-11-28"`.
        architecture: class of the target where it is one of transformers or diffusers; empty otherwise.
        parameters: of the target, two digits; None without one.
        dtype: of its weights.
        figures: what was measured.
        verdicts: op calls by verdict.
        not_native: ops that fell back, raised or were wrong, with their number of calls.
        checks: status by id of a check.
    """

    version: int = VERSION
    made_by: str
    mpsprobe: str
    torch: str = ""
    transformers: str = ""
    python: str = ""
    macos: str = ""
    chip: str = ""
    gpu_cores: int | None = None
    memory_gb: int | None = None
    day: str = ""
    architecture: str = ""
    parameters: int | None = None
    dtype: str = ""
    figures: list[Figure] = []
    verdicts: dict[str, int] = {}
    not_native: dict[str, int] = {}
    checks: dict[str, str] = {}

    def save(self, file: Path) -> None:
        """Write it."""
        file.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")


def of_calibration(calibration: Calibration, host: Host, mpsprobe: str, day: str) -> FieldReport:
    """Return the report of a calibration."""
    best: dict[str, float] = {}
    for point in calibration.points:
        if point.kind in ("matmul", "attention", "conv") and point.seconds > 0:
            key = f"{point.kind} {point.dtype}"
            best[key] = max(best.get(key, 0.0), point.flops / point.seconds / 1e12)
    figures = [Figure(what=what, value=_short(value), unit="TFLOP/s") for what, value in best.items()]
    figures += [
        Figure(what="weights", value=_short(calibration.weights_bandwidth / 1e9), unit="GB/s"),
        Figure(what="copy", value=_short(calibration.copy_bandwidth / 1e9), unit="GB/s"),
        Figure(what="least kernel", value=_short(calibration.kernel_seconds * 1e6), unit="us"),
        Figure(what="wait", value=_short(calibration.wait_seconds * 1e6), unit="us"),
    ]
    figures += [
        Figure(what=f"host {kind}", value=_short(seconds * 1e6), unit="us")
        for kind, seconds in calibration.host_seconds.items()
    ]
    return FieldReport(
        made_by="calibrate",
        mpsprobe=mpsprobe,
        torch=calibration.torch,
        python=calibration.python,
        day=day,
        figures=figures,
        **_machine(host),
    )


def of_run(run: Run) -> FieldReport:
    """Return the report of a run on a Mac: what was measured there, and nothing of what the target said."""
    verdicts: Counter[str] = Counter()
    not_native: Counter[str] = Counter()
    for use in run.op_uses:
        verdicts[use.verdict.value] += use.count
        if use.verdict not in (OpVerdict.NATIVE, OpVerdict.COMPOSITE):
            not_native[use.op] += use.count
    figures = [
        Figure(what=one.name, value=_short(float(one.value)), unit=one.unit)
        for check in run.checks
        for one in check.measurements
        if one.evidence is Evidence.MEASURED
        and one.device == "mps"
        and isinstance(one.value, (int, float))
        and not isinstance(one.value, bool)
    ]
    packages = run.host.packages or {}
    architecture = run.target.architecture or ""
    return FieldReport(
        made_by="run",
        mpsprobe=run.mpsprobe,
        torch=str(packages.get("torch", "")),
        transformers=str(packages.get("transformers", "")),
        python=run.host.python or "",
        day=run.started[:10],
        architecture=architecture if architecture.isidentifier() else "",
        parameters=_rounded(run.target.parameters),
        dtype=run.target.dtype or "",
        figures=figures,
        verdicts=dict(verdicts),
        not_native=dict(not_native),
        checks={check.id: check.status.value for check in run.checks},
        **_machine(run.host),
    )


def read(file: Path) -> FieldReport:
    """Return a report that a user sent, checked.

    Raises:
        DataError: it is not one, or holds what no report may hold: a path, an address, a token, free text.
    """
    try:
        raw = file.read_bytes()
        found = msgspec.json.decode(raw, type=FieldReport, strict=True)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError) as problem:
        raise DataError(f"{file}: {problem}.", "Make it anew: mpsprobe calibrate.") from problem
    if found.version != VERSION:
        raise DataError(f"{file} is of version {found.version}.", "Make it anew: mpsprobe calibrate.")
    for text in _texts(found):
        if not _WORD.fullmatch(text) or _PRIVATE.search(text):
            raise DataError(f"{file}: {text[:60]!r} is no name of a chip, class, op, check or unit.")
    return found


def _texts(report: FieldReport) -> Iterable[str]:
    yield from (report.made_by, report.mpsprobe, report.torch, report.transformers, report.python)
    yield from (report.macos, report.chip, report.day, report.architecture, report.dtype)
    for one in report.figures:
        yield one.what
        yield one.unit.replace("/", " ")  # TFLOP/s
    for mapping in (report.verdicts, report.not_native, report.checks):
        yield from mapping
    yield from report.checks.values()


def _machine(host: Host) -> dict[str, Any]:
    memory = host.memory_bytes
    return {
        "chip": host.chip or "",
        "macos": host.os_version or "",
        "gpu_cores": host.gpu_cores,
        "memory_gb": round(memory / 2**30) if memory else None,
    }


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _rounded(count: int | None) -> int | None:
    return int(float(f"{count:.2g}")) if count else None
