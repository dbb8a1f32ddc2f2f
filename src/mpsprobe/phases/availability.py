"""Phase 1: check whether there is an MPS device and whether it computes, and if not, why not.

Where there is no Mac, checks of MPS are skipped with the reason (or fail if MPS was requested), and matrix products
are computed on the device in use, which those checks name.
"""

from __future__ import annotations

import torch
from packaging.version import Version

from mpsprobe.device.select import explain_failure
from mpsprobe.device.self_test import multiply
from mpsprobe.knowledge import chips
from mpsprobe.knowledge.environment import check_variables, macos_allows, release, releases
from mpsprobe.knowledge.variables import Problem, variables
from mpsprobe.phases.check import Checks, Result
from mpsprobe.phases.site import Availability
from mpsprobe.run import Evidence, Host, Measurement, MeasurementKey, Phase, Status, Table

#: The oldest torch that mpsprobe supports: the lower bound of its requirement in pyproject.toml.
LEAST_TORCH = "2.6"

CHECKS: Checks[Availability] = Checks(Phase.AVAILABILITY)


@CHECKS.add("device", "The run has the device asked for", link=True)
def _device(site: Availability) -> Result:
    if site.found is None:
        return site.missing()
    result = Result(Status.PASS, f"{site.choice.used}: {site.choice.reason.rstrip('.')}.")
    result.device, result.evidence = site.found.name, site.found.evidence
    limit = site.found.memory().limit
    if limit is not None:
        result.measurements = [
            Measurement.of(MeasurementKey.DEVICE_MEMORY, limit, "bytes", site.found.evidence, site.found.name)
        ]
    return result


@CHECKS.add("torch", "The installed torch is a supported and known release")
def _torch(site: Availability) -> Result:
    version = site.torch.version
    if version is None:
        return Result(Status.FAIL, site.torch.broken or "torch is not installed.", "pip install torch")
    result = _measured(f"torch {version}.", [_fact(MeasurementKey.TORCH, version)])
    newest, known = releases()[-1].torch, release(version)
    if Version(version) < Version(LEAST_TORCH):
        result.status = Status.FAIL
        result.message = f"torch {version} is older than {LEAST_TORCH}, the least supported."
        result.remedy = f"pip install 'torch>={LEAST_TORCH}'"
    elif known is None:
        result.status = Status.WARN
        result.message = f"torch {version} is not a known release (known: up to {newest})."
        result.remedy = "Upgrade mpsprobe, or read verdicts as those of the nearest release."
    elif Version(version).is_prerelease:
        result.status = Status.WARN
        result.message = f"torch {version} is a pre-release; it is judged as {known.torch}."
    return result


@CHECKS.add("machine", "The machine is a Mac with Apple silicon")
def _machine(site: Availability) -> Result:
    host = site.host
    chip, memory = host.chip or "unknown chip", _gib(host.memory_bytes)
    facts = _machine_facts(host)
    if host.system == "Darwin" and host.machine == "arm64":
        cores = f"{host.gpu_cores} GPU cores" if host.gpu_cores else "unknown number of GPU cores"
        result = _measured(f"{chip}, {cores}, {memory}, macOS {host.os_version}.", facts)
        if host.rosetta:
            result.status = Status.WARN
            result.message += " Python is an x86-64 build under Rosetta."
            result.remedy = "Install an arm64 Python and make a new environment with it."
        return result
    confined = f" in {host.container}" if host.container else ""
    what = f"{host.system} on {host.machine}{confined}: {chip}, {memory}."
    if host.system == "Darwin":
        what = f"An Intel Mac: {chip}, {memory}, macOS {host.os_version}."
    return _without_mps(site, _measured(what, facts), root=("no-mac", "intel"))


@CHECKS.add("macos", "macOS is new enough for the installed torch")
def _macos(site: Availability) -> Result:
    host, version = site.host, site.torch.version
    if host.system != "Darwin":
        return Result(Status.SKIPPED, f"This is {host.system}, not macOS.")
    if version is None or host.os_version == "unknown":
        return Result(Status.UNKNOWN, "The version of torch or of macOS is not known.")
    answer = macos_allows(version, host.os_version)
    if answer.ok is None:
        return Result(Status.UNKNOWN, answer.message)
    result = _measured(answer.message, [_fact(MeasurementKey.MACOS, host.os_version)])
    if not answer.ok:
        result.status = Status.FAIL
        result.remedy = "Update macOS, or install the torch named."
    return result


@CHECKS.add("built", "torch is compiled with MPS")
def _built(site: Availability) -> Result:
    if site.host.system != "Darwin":
        return _without_mps(site, Result(Status.PASS, f"torch for {site.host.system} has no MPS."), root=())
    result = _measured(
        f"torch {site.torch.version} has MPS.", [_fact(MeasurementKey.MPS_BUILT, site.torch.built)]
    )
    if site.torch.built:
        return result
    result.message = f"torch {site.torch.version or '(not installed)'} has no MPS."
    return _without_mps(site, result, root=("no-torch", "not-built"))


@CHECKS.add("available", "torch finds an MPS device that computes")
def _available(site: Availability) -> Result:
    result = _measured("MPS computes here.", [_fact(MeasurementKey.MPS_AVAILABLE, site.torch.available)])
    if site.no_mps is not None:
        result.message = site.no_mps.what
        return _without_mps(site, result, root=(site.no_mps.cause,))
    if site.choice.requested not in ("auto", "mps"):
        return Result(
            Status.UNKNOWN,
            "torch finds an MPS device; whether it computes was not tried, "
            f"because --device {site.choice.requested} was asked for.",
        )
    return result


@CHECKS.add("virtual-gpu", "The GPU is a real one, not that of a virtual machine")
def _virtual_gpu(site: Availability) -> Result:
    host = site.host
    if host.system != "Darwin":
        return Result(Status.SKIPPED, f"This is {host.system}: there is no Apple GPU.")
    name = host.gpu or host.chip or "unknown GPU"
    result = _measured(f"{name}.", [_fact(MeasurementKey.GPU, host.gpu)])
    if host.virtual_gpu:
        result.status = Status.WARN
        result.message = f"{name}: a virtual GPU, whose results are not evidence for real Macs."
        result.remedy = "Repeat on a real Mac before relying on anything measured here."
    return result


@CHECKS.add("working-set", "Metal's recommended maximum working set is known")
def _working_set(site: Availability) -> Result:
    host, device = site.host, site.found
    if host.system != "Darwin" or host.machine != "arm64":
        return Result(Status.SKIPPED, "There is no Apple GPU here.")
    measured = device.memory().limit if device is not None and device.name == "mps" else None
    size, evidence, how = measured or host.working_set_bytes, Evidence.MEASURED, ""
    if not size and host.memory_bytes:
        evidence = Evidence.PREDICTED
        size, row = chips.working_set(host.memory_bytes, host.os_version)
        how = (
            f", predicted from what a {row.memory_gib} GB Mac with macOS {row.since_macos} or later has "
            f"({row.share:.0%})"
        )
    if not size:
        return Result(Status.UNKNOWN, "Neither torch nor macOS tells.")
    return Result(
        Status.PASS,
        f"{size / 2**30:.2f} GiB of {_gib(host.memory_bytes)}{how}.",
        evidence=evidence,
        measurements=[Measurement.of(MeasurementKey.WORKING_SET, size, "bytes", evidence, "mps")],
    )


@CHECKS.add("compute.float32", "The device multiplies float32 matrices as a float64 reference does")
def _float32(site: Availability) -> Result:
    return _compute(site, torch.float32)


@CHECKS.add("compute.float16", "The device multiplies float16 matrices as a float64 reference does")
def _float16(site: Availability) -> Result:
    return _compute(site, torch.float16)


@CHECKS.add("compute.bfloat16", "The device multiplies bfloat16 matrices as a float64 reference does")
def _bfloat16(site: Availability) -> Result:
    return _compute(site, torch.bfloat16)


@CHECKS.add("environment", "MPS environment variables are legal and were set before Python started")
def _environment(site: Availability) -> Result:
    problems = [*check_variables(site.env, site.torch.version), *_changed_late(site)]
    names = [variable.name for variable in variables() if variable.name in site.env]
    result = _measured(f"Set: {', '.join(names)}." if names else "None is set.", [])
    if not problems:
        if site.env_at_start is None and names:
            result.message += " Whether they were set in time is not known here."
        return result
    # What ends a program on a Mac has no effect elsewhere.
    on_mps = site.choice.used == "mps"
    serious = on_mps and any(problem.severity == "error" for problem in problems)
    result.status = Status.FAIL if serious else Status.WARN
    result.message = " ".join(problem.what for problem in problems)
    result.remedy = " ".join(dict.fromkeys(problem.fix for problem in problems))
    result.table = Table(
        columns=["variable", "value", "what", "fix"],
        rows=[[problem.variable, problem.value, problem.what, problem.fix] for problem in problems],
    )
    return result


def _compute(site: Availability, dtype: torch.dtype) -> Result:
    """Multiply matrices on the device in use, and compare the product within the tolerance of `device.self_test`.

    A wrong product fails the check; a product that cannot be computed does so only in float32.
    """
    device = site.found
    if device is None:
        return Result(Status.BLOCKED, site.missing().message, blocked_by=Phase.AVAILABILITY)
    result = Result(Status.PASS, evidence=device.evidence, device=device.name)
    try:
        product = multiply(device.torch_device, dtype)
        device.synchronize()
    except (RuntimeError, TypeError) as problem:
        # A target that does not use this dtype still runs, so only float32 fails the phase.
        result.status = Status.FAIL if dtype is torch.float32 else Status.WARN
        result.message, result.remedy = explain_failure(device.name, str(problem))
        result.output = str(problem)
        return result
    result.message = f"On {device.name}: error {product.error:.1e}, accepted {product.tolerance:.1e}."
    result.measurements = [
        Measurement.of(MeasurementKey.LARGEST_ERROR, product.error, "", device.evidence, device.name),
        Measurement.of(MeasurementKey.ACCEPTED_ERROR, product.tolerance, "", device.evidence, device.name),
    ]
    if not product.right:
        result.status = Status.FAIL
        result.message = f"Wrong product. {result.message}"
        result.remedy = "Update macOS and torch; do not trust results of this device."
    return result


def _changed_late(site: Availability) -> list[Problem]:
    """Return a problem for each variable that this process itself changed after its start, which torch may not notice.

    The list is empty where the environment at the start is not known.
    """
    if site.env_at_start is None:
        return []
    late = []
    for variable in variables():
        now, then = site.env.get(variable.name), site.env_at_start.get(variable.name)
        if now == then:
            continue
        how = "set" if then is None else "unset" if now is None else f"changed from {then!r}"
        what = (
            f"{variable.name} was {how} by this process itself; torch reads it at {variable.when}, "
            "and a change after that has no effect."
        )
        late.append(Problem(variable.name, now or "", what, "Set it in the shell, before Python starts."))
    return late


def _without_mps(site: Availability, result: Result, root: tuple[str, ...]) -> Result:
    """Complete the result of an MPS check where there is no MPS: a failure only if MPS was requested.

    On a Mac with `--device auto` it is a warning; otherwise the check is skipped. Only checks about the cause give the
    remedy, so that a report does not repeat it five times.

    Args:
        site: The facts of this machine.
        result: The result so far, which is changed and returned.
        root: The causes of `mac.unavailable` that the check is about.
    """
    remedy = site.no_mps.remedy if site.no_mps and site.no_mps.cause in root else ""
    if site.choice.requested == "mps":
        result.status, result.remedy = Status.FAIL, remedy
    elif site.host.system == "Darwin" and site.choice.requested == "auto":
        result.status, result.remedy = Status.WARN, remedy
    else:
        result.status, result.evidence = Status.SKIPPED, None
    return result


def _measured(message: str, measurements: list[Measurement]) -> Result:
    return Result(Status.PASS, message, evidence=Evidence.MEASURED, measurements=measurements)


def _fact(quantity: MeasurementKey, value: str | bool | int | None, unit: str = "") -> Measurement:
    return Measurement.of(quantity, value, unit, Evidence.MEASURED, "host")


def _machine_facts(host: Host) -> list[Measurement]:
    facts = [
        _fact(MeasurementKey.SYSTEM, f"{host.system} {host.os_version}"),
        _fact(MeasurementKey.CHIP, host.chip),
        _fact(MeasurementKey.GPU, host.gpu),
        _fact(MeasurementKey.GPU_CORES, host.gpu_cores),
        _fact(MeasurementKey.MEMORY, host.memory_bytes, "bytes"),
        _fact(MeasurementKey.CONFINEMENT, host.container),
    ]
    return [fact for fact in facts if fact.value is not None]


def _gib(size: int | None) -> str:
    return f"{size / 2**30:.0f} GiB" if size else "an unknown amount of memory"
