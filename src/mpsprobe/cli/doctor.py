"""`mpsprobe doctor`: what this machine is, whether MPS computes here, why not and what to do."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click
import msgspec

from mpsprobe import mac
from mpsprobe.cli.sink import Sink, json_flag, pass_sink
from mpsprobe.device.installed import torch_facts
from mpsprobe.knowledge import chips
from mpsprobe.knowledge.environment import check_variables
from mpsprobe.knowledge.variables import Problem
from mpsprobe.mac.unavailable import TorchFacts, Unavailability, why_no_mps
from mpsprobe.run import Evidence, Host, Status

if TYPE_CHECKING:  # imports torch
    from mpsprobe.device.select import Probe


class Diagnosis(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What the doctor found.

    Attributes:
        computes: MPS multiplied two matrices rightly, in a child process, just now.
        cause: short name of what keeps it from that; empty when nothing does.
        what: one sentence.
        remedy: what to do.
        host: facts of this machine.
        working_set_bytes: Metal's recommended maximum; None without an Apple GPU.
        working_set_evidence: how that is known.
        variables: what is wrong with MPS's environment variables.
        predicts: whether `mpsprobe predict` passed its self-test here, in a child process; None where it was not
            run: without torch, and off a Mac, where the project's tests run it.
        prediction: one sentence about that; empty where it was not run.
        prediction_remedy: what to do if it failed.
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
@json_flag
@pass_sink
def command(sink: Sink) -> None:
    """Say what this machine is and whether MPS computes here; if not, why and what to do.

    Exit code: 0 MPS computes, 1 it does not. Works without torch, and says so.
    """
    diagnosis = examine(mac.host())
    sink.result(_text(diagnosis), diagnosis)
    sys.exit(0 if diagnosis.computes else 1)


def examine(host: Host) -> Diagnosis:
    """Examine torch and try MPS where there is one."""
    # Importing torch takes seconds, and says nothing about MPS where there is no Mac.
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
