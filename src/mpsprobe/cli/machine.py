"""`mpsprobe doctor` and `mpsprobe calibrate`: check this machine, and measure its device."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from mpsprobe import mac
from mpsprobe.cli.sink import Sink, pass_sink
from mpsprobe.device.installed import torch_facts
from mpsprobe.errors import DataError, TargetError
from mpsprobe.knowledge import chips
from mpsprobe.knowledge.environment import check_variables
from mpsprobe.knowledge.variables import Problem
from mpsprobe.mac.unavailable import TorchFacts, Unavailability, why_no_mps
from mpsprobe.run import Evidence, Host, Status

if TYPE_CHECKING:
    from mpsprobe.device.select import Probe
    from mpsprobe.forecast.calibration import Calibration


class Diagnosis(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The findings of `mpsprobe doctor`.

    Attributes:
        computes: Whether MPS has just multiplied two matrices correctly, in a child process.
        cause: A short name of what prevents that; empty when nothing does.
        what: The cause in one sentence.
        remedy: What to do about it.
        host: The facts of this machine.
        working_set_bytes: Metal's recommendedMaxWorkingSetSize in bytes; None without an Apple GPU.
        working_set_evidence: How that is known.
        variables: The problems with environment variables of MPS.
        predicts: Whether `mpsprobe predict` passed its self-test here, in a child process. None where it was not
            run, which is the case without torch, and on systems other than macOS, where the project's tests run it.
        prediction: The outcome of the self-test in one sentence; empty where it was not run.
        prediction_remedy: What to do if it failed.
    """

    computes: bool
    cause: str
    what: str
    remedy: str
    host: Host
    working_set_bytes: int | None
    working_set_evidence: Evidence | None
    variables: list[Problem]
    predicts: bool | None = None
    prediction: str = ""
    prediction_remedy: str = ""


@click.command("doctor")
@pass_sink
def doctor(sink: Sink) -> None:
    """Check this machine, and whether MPS computes here; if not, say why and what to do.

    Exit codes: 0 MPS computes, 1 it does not, 2 usage, 4 mpsprobe failed. The command also works
    without torch, and says so.
    """
    diagnosis = examine(mac.host())
    sink.result(_text(diagnosis), diagnosis)
    sys.exit(0 if diagnosis.computes else 1)


def examine(host: Host) -> Diagnosis:
    """Examine torch, and try MPS where there is one."""
    # Importing torch takes seconds, and shows nothing about MPS on other systems.
    torch = torch_facts() if host.system == "Darwin" else TorchFacts(host.packages.get("torch"))
    unavailable = why_no_mps(host, torch) or _tried(host)
    size, evidence = _working_set(host, torch)
    tested = _self_test() if torch.built else None
    return Diagnosis(
        computes=unavailable is None,
        cause=unavailable.cause if unavailable else "",
        what=unavailable.what if unavailable else f"{host.gpu or host.chip} multiplies matrices rightly.",
        remedy=unavailable.remedy if unavailable else "",
        host=host,
        working_set_bytes=size,
        working_set_evidence=evidence,
        variables=check_variables(os.environ, torch.version),
        predicts=tested.status is Status.PASS if tested else None,
        prediction=tested.reason if tested else "",
        prediction_remedy=tested.remedy if tested else "",
    )


def _tried(host: Host) -> Unavailability | None:
    from mpsprobe.device.select import why_mps_unavailable  # imports torch

    return why_mps_unavailable(host)


def _self_test() -> Probe:
    from mpsprobe.device.select import probe_prediction  # imports torch

    return probe_prediction()


def _working_set(host: Host, torch: TorchFacts) -> tuple[int | None, Evidence | None]:
    if host.system != "Darwin" or host.machine != "arm64":
        return None, None
    limit = _limit_of_torch() if torch.available else None
    if limit:
        return limit, Evidence.MEASURED
    if host.working_set_bytes:
        return host.working_set_bytes, Evidence.MEASURED
    if host.memory_bytes:
        return chips.working_set(host.memory_bytes, host.os_version)[0], Evidence.PREDICTED
    return None, None


def _limit_of_torch() -> int | None:
    from mpsprobe.device.real import Mps  # imports torch

    return Mps().memory().limit


def _text(diagnosis: Diagnosis) -> str:
    host = diagnosis.host
    system = "macOS" if host.system == "Darwin" else host.system
    rows = [
        ("Machine", f"{system} {host.os_version} on {host.machine}{_confined(host)}"),
        ("Chip", _joined(host.chip or "unknown", host.cpu_cores and f"{host.cpu_cores} CPU cores")),
        ("GPU", _gpu(host)),
        ("Memory", f"{host.memory_bytes / 2**30:.0f} GiB" if host.memory_bytes else "unknown"),
        ("Python", f"{host.python}{', an x86-64 build under Rosetta' if host.rosetta else ''}"),
        ("Packages", ", ".join(f"{name} {version}" for name, version in host.packages.items())),
    ]
    if "torch" not in host.packages:
        rows.append(("torch", "not installed"))
    if diagnosis.working_set_bytes and diagnosis.working_set_evidence:
        size = f"{diagnosis.working_set_bytes / 2**30:.2f} GiB ({diagnosis.working_set_evidence.value})"
        rows.append(("For MPS", f"at most {size}"))
    lines = [f"{name:<10}{value}" for name, value in rows if value]
    verdict = "MPS computes here" if diagnosis.computes else "MPS does not compute here"
    lines += ["", f"{verdict}: {diagnosis.what}"]
    if diagnosis.remedy:
        lines.append(f"What to do: {diagnosis.remedy}")
    if diagnosis.computes and host.virtual_gpu:
        lines.append("The GPU is a virtual one: results are not evidence for real Macs.")
    if diagnosis.predicts is not None:
        lines += ["", f"Prediction {'works' if diagnosis.predicts else 'fails'} here: {diagnosis.prediction}"]
        if diagnosis.prediction_remedy:
            lines.append(f"What to do: {diagnosis.prediction_remedy}")
    if diagnosis.variables:
        lines += ["", "Environment variables:"]
        lines += [f"- {problem.what} {problem.fix}" for problem in diagnosis.variables]
    return "\n".join(lines)


def _gpu(host: Host) -> str:
    if host.gpu is None:
        return "none that MPS could use" if host.system != "Darwin" else "unknown"
    return _joined(
        host.gpu,
        host.gpu_cores and f"{host.gpu_cores} cores",
        "virtual" if host.virtual_gpu else None,
    )


def _joined(*parts: str | int | None) -> str:
    return ", ".join(str(part) for part in parts if part)


def _confined(host: Host) -> str:
    return f", inside {host.container}" if host.container else ""


_AUTO = "auto"
#: The kinds of calls whose cost on the host is shown.
_SHOWN = ("matmul", "stream", "view", "module")


@click.command("calibrate")
@click.option(
    "--device",
    type=click.Choice([_AUTO, "mps", "cuda", "cpu"]),
    default=_AUTO,
    show_default=True,
    help="The device; auto: mps, else cuda, else cpu.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write.  [default: in the user's cache folder, where predict looks]",
)
@pass_sink
def calibrate(sink: Sink, device: str, output: Path | None) -> None:
    """Measure a device: matmul by dtype, memory, dispatch, waits and copies, in about a minute.

    The result is a JSON file, from which mpsprobe predict forecasts the time on that device. Nothing else should
    run in the meantime: the host is timed in rounds; where they differ, the ranges are wider and a line says so.
    """
    import msgspec
    import torch

    from mpsprobe.device.real import real_device
    from mpsprobe.forecast.calibrate import calibrate as measure
    from mpsprobe.forecast.calibration import beside, default_file, read
    from mpsprobe.forecast.clock import remark

    there = {"mps": torch.backends.mps.is_available(), "cuda": torch.cuda.is_available(), "cpu": True}
    if device == _AUTO:
        device = next(name for name, yes in there.items() if yes)
    if not there[device]:
        raise TargetError(f"torch {torch.__version__} finds no {device} here.", "mpsprobe doctor says why.")
    sink.remark(f"measuring {device}")
    file = output or default_file(device)
    before = None
    with contextlib.suppress(DataError):  # there is none, or it is of another version
        before = read(file)
    calibration = beside(measure(real_device(device), lambda what: sink.remark(f"  {what}")), before)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(msgspec.json.format(msgspec.json.encode(calibration)) + b"\n")
    except OSError as problem:
        raise TargetError(f"{file} cannot be written: {problem.strerror}.") from problem
    sent = _field_report(calibration, file, device)
    best: dict[str, float] = {}
    for point in calibration.points:
        if point.kind == "matmul":
            best[point.dtype] = max(best.get(point.dtype, 0.0), point.flops / point.seconds)
    lines = [f"{calibration.name}, torch {calibration.torch}, took {calibration.took_seconds:.0f} s"]
    lines += [f"  matmul {dtype}  {rate / 1e12:.3g} TFLOP/s" for dtype, rate in best.items()]
    lines += [
        f"  weights from memory  {calibration.weights_bandwidth / 1e9:.3g} GB/s",
        "  host, within a model: "
        + ", ".join(f"{kind} {calibration.host_seconds[kind] * 1e6:.3g} µs" for kind in _SHOWN),
        f"  least kernel  {calibration.kernel_seconds * 1e6:.3g} µs, a wait {calibration.wait_seconds * 1e6:.3g} µs",
        f"  copy  {calibration.copy_bandwidth / 1e9:.3g} GB/s",
        *([line] if (line := remark(calibration.unsteady)) else []),
        f"written to {file}",
        *sent,
    ]
    sink.result("\n".join(lines), calibration)


def _field_report(calibration: Calibration, file: Path, device: str) -> list[str]:
    """Write the anonymous report of a Mac beside its calibration, and return lines that tell the user about it."""
    if device != "mps":
        return []
    from mpsprobe import __version__, mac
    from mpsprobe.forecast import field
    from mpsprobe.run.journal import utc_now

    written = file.with_name(field.FILE)
    field.of_calibration(calibration, mac.host(), __version__, utc_now()[:10]).save(written)
    return [
        f"{written}: chip, releases and rates, no path or name; attach it to an issue if you like. Nothing was sent."
    ]
