"""A field report: the measurements of a Mac, small and anonymous, which its owner may attach to an issue.

It holds the chip, the releases, rates, timings and verdicts, but no path, name, token or text of a model. mpsprobe
never sends it. `tools/field.py` checks such files, adds their figures to the measured points and fits the constants
again.
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
#: The accepted texts in a report: names of chips, classes, ops, checks, releases and units.
_WORD = re.compile(r"[A-Za-z0-9_.,:+ ()\[\]x-]{0,120}")
#: Texts that no report may hold.
_PRIVATE = re.compile(r"hf_[A-Za-z0-9]{8,}|[\w.]+@[\w.]+|(?:^|[\s\"'])[/~][\w.]|\\|https?:", re.IGNORECASE)


class Figure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A measured time, rate or size, with its unit.

    Attributes:
        what: The quantity, such as `"matmul float16"`, `"time per sample"` or `"weights"`.
        value: The value in `unit`.
        unit: `"TFLOP/s"`, `"GB/s"`, `"us"`, `"s"` or `"bytes"`.
    """

    what: str
    value: float
    unit: str


class FieldReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One anonymous report of measurements on a Mac; a text is empty where it is unknown.

    Attributes:
        version: The version of the schema.
        made_by: The command that made it: `"calibrate"` or `"run"`.
        mpsprobe: The version of mpsprobe.
        torch: The version of torch.
        transformers: The version of transformers.
        python: The version of Python.
        macos: The version of macOS.
        chip: The chip as macOS writes it.
        gpu_cores: The number of its GPU cores; None where unknown.
        memory_gb: Its unified memory in GB as Apple counts them; None where unknown.
        day: The day in UTC, such as `"2026-11-28"`.
        architecture: The class of the target if it is one of transformers or diffusers; empty otherwise.
        parameters: The number of parameters of the target, rounded to two digits; None without a target.
        dtype: The dtype of its weights.
        figures: The measurements.
        verdicts: The number of op calls by verdict.
        not_native: The number of calls of each op whose verdict is neither native nor composite.
        checks: The status of each check by its id.
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
        """Write the report to a file as indented JSON."""
        file.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")


def of_calibration(calibration: Calibration, host: Host, mpsprobe: str, day: str) -> FieldReport:
    """Return the anonymous report of a calibration on this machine."""
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
    """Return the report of a run on a Mac: what was measured on MPS, and the verdicts, without the target's texts."""
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
    """Read and check a report that a user sent.

    Raises:
        DataError: The file is not a report, or holds what no report may hold: a path, an address, a token or
            free text.
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
