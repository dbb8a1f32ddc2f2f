"""Phase 1: is there an MPS device, does it compute, and if not, why not.

Facts of the Mac are asserted where there is one; elsewhere those checks are skipped with the reason, and the
product of two matrices is computed on the device in use, which says so.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psutil
import torch
from packaging.version import Version

from mpsprobe.device.compute import multiply
from mpsprobe.device.installed import torch_facts
from mpsprobe.device.real import Device
from mpsprobe.device.select import DeviceUnavailableError, explain_failure, mps_obstacle
from mpsprobe.knowledge import chips
from mpsprobe.knowledge.environment import check_variables, macos_allows, release, releases
from mpsprobe.knowledge.variables import Problem, variables
from mpsprobe.mac.obstacle import Obstacle, TorchFacts, why_no_mps
from mpsprobe.run import Check, Evidence, Host, Measurement, Phase, Status, Table

#: Least torch that mpsprobe supports: the lower bound of its own requirement.
LEAST_TORCH = "2.4"

#: dtypes in which the device has to multiply. Only float32 is needed by every target.
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Setting:
    """What the checks of this phase look at.

    Attributes:
        host: facts of this machine.
        requested: what `--device` said.
        device: the device in use; None when the one asked for is not to be had.
        unavailable: why not, when `device` is None.
        obstacle: what keeps MPS from computing here; None where it computes, or where torch finds it and
            another device was asked for.
        torch: what torch says of itself.
        env: environment variables now.
        env_at_start: those the process was started with; None when that is not known.
    """

    host: Host
    requested: str
    device: Device | None
    unavailable: DeviceUnavailableError | None
    obstacle: Obstacle | None
    torch: TorchFacts
    env: Mapping[str, str]
    env_at_start: Mapping[str, str] | None


def look(
    host: Host,
    requested: str,
    device: Device | None,
    env: Mapping[str, str],
    unavailable: DeviceUnavailableError | None = None,
) -> Setting:
    """Gather a `Setting`.

    Args:
        host: facts of this machine.
        requested: what `--device` said.
        device: what `device.select.choose` gave; None when it raised.
        env: `os.environ`.
        unavailable: what it raised.
    """
    facts = torch_facts()
    tried = requested in ("auto", "mps")
    return Setting(
        host=host,
        requested=requested,
        device=device,
        unavailable=unavailable,
        obstacle=mps_obstacle(host) if tried else why_no_mps(host, facts),
        torch=facts,
        env=env,
        env_at_start=environment_at_start(),
    )


def environment_at_start() -> dict[str, str] | None:
    """The variables this process was started with; None where the system does not tell.

    Linux keeps them in /proc/self/environ, macOS behind sysctl KERN_PROCARGS2 (not for programs under System
    Integrity Protection, such as /usr/bin/python3).
    """
    try:
        return psutil.Process().environ() or None
    except psutil.Error:
        return None


def check_torch(setting: Setting) -> Check:
    """The torch at hand is a release that mpsprobe supports and has knowledge of."""
    check = _check("torch", "torch is a supported and known release")
    version = setting.torch.version
    if version is None:
        check.status = Status.FAIL
        check.message = setting.torch.broken or "torch is not installed"
        check.remedy = "pip install torch"
        return check
    check.evidence = Evidence.MEASURED
    check.measurements = [_fact("torch", version)]
    newest, known = releases()[-1].torch, release(version)
    if Version(version) < Version(LEAST_TORCH):
        check.status = Status.FAIL
        check.message = f"torch {version} is older than {LEAST_TORCH}, the least supported"
        check.remedy = f"pip install 'torch>={LEAST_TORCH}'"
    elif known is None:
        check.status = Status.WARN
        check.message = f"torch {version} is not a known release (known: up to {newest})"
        check.remedy = "Upgrade mpsprobe, or read verdicts as those of the nearest release."
    elif Version(version).is_prerelease:
        check.status = Status.WARN
        check.message = f"torch {version} is a pre-release; it is judged as {known.torch}"
    else:
        check.message = f"torch {version}"
    return check


def check_machine(setting: Setting) -> Check:
    """The machine is a Mac with Apple silicon, and what it is."""
    check = _check("machine", "The machine is a Mac with Apple silicon")
    host = setting.host
    check.measurements = _machine_facts(host)
    check.evidence = Evidence.MEASURED
    memory = f"{host.memory_bytes / 2**30:.0f} GiB" if host.memory_bytes else "unknown memory"
    chip = host.chip or "unknown chip"
    if host.system == "Darwin" and host.machine == "arm64":
        cores = f"{host.gpu_cores} GPU cores" if host.gpu_cores else "unknown number of GPU cores"
        check.message = f"{chip}, {cores}, {memory}, macOS {host.os_version}"
        if host.rosetta:
            check.status = Status.WARN
            check.message += "; Python is an x86-64 build under Rosetta"
            check.remedy = "Install an arm64 Python and make a new environment with it."
        return check
    confined = f" in {host.container}" if host.container else ""
    found = f"{host.system} on {host.machine}{confined}: {chip}, {memory}"
    if host.system == "Darwin":
        found = f"an Intel Mac: {chip}, {memory}, macOS {host.os_version}"
    return _without_mps(setting, check, found, root=("no-mac", "intel"))


def check_macos(setting: Setting) -> Check:
    """The macOS at hand is new enough for the installed torch."""
    check = _check("macos", "macOS is new enough for the installed torch")
    host, version = setting.host, setting.torch.version
    if host.system != "Darwin":
        return _skip(check, f"this is {host.system}, not macOS")
    if version is None or host.os_version == "unknown":
        check.status = Status.UNKNOWN
        check.message = "torch or the version of macOS is not known"
        return check
    answer = macos_allows(version, host.os_version)
    check.message = answer.message
    check.measurements = [_fact("macOS", host.os_version)]
    if answer.ok is None:
        check.status = Status.UNKNOWN
        return check
    check.evidence = Evidence.MEASURED
    if not answer.ok:
        check.status = Status.FAIL
        check.remedy = "Update macOS, or install the torch named."
    return check


def check_built(setting: Setting) -> Check:
    """The torch at hand was compiled with MPS."""
    check = _check("built", "torch is compiled with MPS")
    if setting.host.system != "Darwin":
        return _without_mps(setting, check, f"torch for {setting.host.system} has no MPS in it", root=())
    check.evidence = Evidence.MEASURED
    check.measurements = [_fact("torch.backends.mps.is_built()", setting.torch.built)]
    if setting.torch.built:
        check.message = f"torch {setting.torch.version} has MPS"
        return check
    return _without_mps(
        setting,
        check,
        f"torch {setting.torch.version or ''} has no MPS in it",
        root=("no-torch", "not-built"),
    )


def check_available(setting: Setting) -> Check:
    """Torch finds an MPS device that computes; otherwise why not."""
    check = _check("available", "torch finds an MPS device that computes")
    check.evidence = Evidence.MEASURED
    if setting.obstacle is not None:
        return _without_mps(setting, check, setting.obstacle.what, root=(setting.obstacle.cause,))
    check.measurements = [_fact("torch.backends.mps.is_available()", setting.torch.available)]
    if setting.requested in ("auto", "mps"):
        check.message = "MPS computes here"
        return check
    check.status = Status.UNKNOWN
    check.evidence = None
    check.message = (
        f"torch finds an MPS device; whether it computes was not tried with --device {setting.requested}"
    )
    return check


def check_virtual_gpu(setting: Setting) -> Check:
    """The GPU is a real one."""
    check = _check("virtual-gpu", "The GPU is a real one, not that of a virtual machine")
    host = setting.host
    if host.system != "Darwin":
        return _skip(check, f"this is {host.system}: there is no Apple GPU")
    check.evidence = Evidence.MEASURED
    check.message = host.gpu or host.chip or "unknown GPU"
    if host.virtual_gpu:
        check.status = Status.WARN
        check.message += ": a virtual GPU, its results are not evidence for real Macs"
        check.remedy = "Repeat on a real Mac before relying on anything measured here."
    return check


def check_working_set(setting: Setting) -> Check:
    """How much memory Metal recommends using at most."""
    check = _check("working-set", "Metal's recommended maximum working set is known")
    host = setting.host
    if host.system != "Darwin" or host.machine != "arm64":
        return _skip(check, "no Apple GPU here; `--mac NAME` predicts for a Mac that is not at hand")
    measured = setting.device.memory().limit if setting.device and setting.device.name == "mps" else None
    measured = measured or host.working_set_bytes
    if measured:
        check.evidence = Evidence.MEASURED
        check.message = f"{measured / 2**30:.2f} GiB of {_gib(host.memory_bytes)}"
        check.measurements = [
            Measurement("recommended maximum working set", measured, "bytes", Evidence.MEASURED, "mps")
        ]
    elif host.memory_bytes:
        predicted, row = chips.working_set(host.memory_bytes, host.os_version)
        check.evidence = Evidence.PREDICTED
        check.message = (
            f"{predicted / 2**30:.2f} GiB of {_gib(host.memory_bytes)}, predicted from what a "
            f"{row.memory_gib} GB Mac with macOS {row.since_macos} or later has ({row.share:.0%})"
        )
        check.measurements = [
            Measurement("recommended maximum working set", predicted, "bytes", Evidence.PREDICTED, "mps")
        ]
    else:
        check.status = Status.UNKNOWN
        check.message = "neither torch nor macOS tells"
    return check


def check_compute(setting: Setting, dtype: str) -> Check:
    """Allocate, multiply, synchronise and compare with a float64 reference, on the device in use.

    The accepted error is the dtype's epsilon times the square root of the inner size (see `device.compute`).
    """
    device = setting.device
    name = device.name if device else setting.requested
    check = _check(f"compute.{dtype}", f"{name} multiplies {dtype} matrices as a float64 reference does")
    check.device = name
    if device is None:
        check.status = Status.FAIL
        check.message = setting.unavailable.what if setting.unavailable else f"there is no {name} here"
        # For mps, availability.available has it already.
        check.remedy = setting.unavailable.hint if setting.unavailable and name != "mps" else ""
        return check
    check.evidence = device.evidence
    try:
        product = multiply(device.torch_device, DTYPES[dtype])
        device.synchronize()
    except (RuntimeError, TypeError) as problem:
        # A target that does not use this dtype runs all the same, so only float32 fails the phase.
        check.status = Status.FAIL if dtype == "float32" else Status.WARN
        check.message, check.remedy = explain_failure(name, str(problem))
        check.output = str(problem)
        return check
    check.measurements = [
        Measurement("largest error, relative to the largest value", product.error, "", device.evidence, name),
        Measurement("accepted error", product.tolerance, "", device.evidence, name),
    ]
    check.message = f"error {product.error:.1e}, accepted {product.tolerance:.1e}"
    if not product.right:
        check.status = Status.FAIL
        check.message = f"wrong product: {check.message}"
        check.remedy = "Update macOS and torch; do not trust results of this device."
    return check


def check_environment(setting: Setting) -> Check:
    """MPS environment variables are legal and were set in time."""
    check = _check("environment", "MPS environment variables are legal and were set before Python started")
    check.evidence = Evidence.MEASURED
    problems = [*check_variables(setting.env, setting.torch.version), *_set_late(setting)]
    names = [variable.name for variable in variables() if variable.name in setting.env]
    check.message = f"set: {', '.join(names)}" if names else "none is set"
    if not problems:
        if setting.env_at_start is None and names:
            check.message += "; whether they were set in time is not known here"
        return check
    # What ends a program on a Mac does nothing elsewhere.
    on_mps = setting.device is None or setting.device.name == "mps"
    serious = on_mps and any(problem.severity == "error" for problem in problems)
    check.status = Status.FAIL if serious else Status.WARN
    check.message = " ".join(problem.what for problem in problems)
    check.remedy = " ".join(dict.fromkeys(problem.mend for problem in problems))
    check.table = Table(
        columns=["variable", "value", "what", "mend"],
        rows=[[problem.variable, problem.value, problem.what, problem.mend] for problem in problems],
    )
    return check


#: The checks by id, in their order.
CHECKS: dict[str, Callable[[Setting], Check]] = {
    "availability.torch": check_torch,
    "availability.machine": check_machine,
    "availability.macos": check_macos,
    "availability.built": check_built,
    "availability.available": check_available,
    "availability.virtual-gpu": check_virtual_gpu,
    "availability.working-set": check_working_set,
    **{f"availability.compute.{dtype}": functools.partial(check_compute, dtype=dtype) for dtype in DTYPES},
    "availability.environment": check_environment,
}


def _set_late(setting: Setting) -> list[Problem]:
    """Variables that this process changed itself: torch reads each only once."""
    if setting.env_at_start is None:
        return []
    late = []
    for variable in variables():
        now, then = setting.env.get(variable.name), setting.env_at_start.get(variable.name)
        if now == then:
            continue
        how = "set" if then is None else "unset" if now is None else f"changed from {then!r}"
        what = (
            f"{variable.name} was {how} by this process itself; torch reads it at {variable.when}, "
            "and a change after that has no effect."
        )
        late.append(Problem(variable.name, now or "", what, "Set it in the shell, before Python starts."))
    return late


def _without_mps(setting: Setting, check: Check, why: str, root: tuple[str, ...]) -> Check:
    """How a check of MPS ends where there is none: a failure only if MPS was asked for.

    The remedy stands where the cause lies (`root`: causes of `mac.obstacle` that the check is about), so that
    a report does not say the same thing five times.
    """
    check.message = why
    if setting.obstacle and setting.obstacle.cause in root:
        check.remedy = setting.obstacle.remedy
    if setting.requested == "mps":
        check.status = Status.FAIL
    elif setting.host.system == "Darwin" and setting.requested == "auto":
        check.status = Status.WARN
    else:
        check.remedy = ""
        return _skip(check, why)
    return check


def _skip(check: Check, why: str) -> Check:
    check.status = Status.SKIPPED
    check.message = why
    check.evidence = None
    return check


def _check(name: str, title: str) -> Check:
    return Check(
        id=f"availability.{name}", phase=Phase.AVAILABILITY, title=title, status=Status.PASS, device="host"
    )


def _fact(name: str, value: str | bool | int | None, unit: str = "") -> Measurement:
    return Measurement(name, value, unit, Evidence.MEASURED, "host")


def _machine_facts(host: Host) -> list[Measurement]:
    return [
        _fact("system", f"{host.system} {host.os_version}"),
        _fact("chip", host.chip),
        _fact("GPU", host.gpu),
        _fact("GPU cores", host.gpu_cores),
        _fact("memory", host.memory_bytes, "bytes"),
        _fact("confinement", host.container),
    ]


def _gib(size: int | None) -> str:
    return f"{size / 2**30:.0f} GiB" if size else "an unknown amount of memory"
