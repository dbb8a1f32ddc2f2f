"""Runs as a user would have them, built in code. The numbers in them are made up."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Literal

from mpsprobe.device.select import limits
from mpsprobe.run import (
    Check,
    DeviceChoice,
    Evidence,
    Host,
    Interruption,
    Measurement,
    OpUse,
    OpVerdict,
    Phase,
    Run,
    Status,
    Table,
    Target,
    TensorMeta,
)

Build = Callable[[], Run]
Markdown = Literal["md", "summary"]

LINUX = Host(
    system="Linux",
    machine="x86_64",
    os_version="6.8.0-60-generic",
    chip="Intel(R) Xeon(R) Processor @ 2.90GHz",
    cpu_cores=2,
    memory_bytes=16 * 2**30,
    container="docker",
    python="3.11.9",
    packages={
        "torch": "2.13.0+cpu",
        "transformers": "4.57.1",
        "huggingface-hub": "0.36.0",
        "tokenizers": "0.22.2",
    },
)

M1_MAX = Host(
    system="Darwin",
    machine="arm64",
    os_version="15.5",
    chip="Apple M1 Max",
    cpu_cores=10,
    gpu="Apple M1 Max",
    gpu_cores=24,
    memory_bytes=64 * 2**30,
    working_set_bytes=51_539_607_552,
    python="3.12.7",
    packages={"torch": "2.8.0", "transformers": "4.57.1", "huggingface-hub": "0.36.0"},
)

RUNNER = Host(
    system="Darwin",
    machine="arm64",
    os_version="15.5",
    chip="Apple M1 (Virtual)",
    cpu_cores=3,
    gpu="Apple Paravirtual device",
    memory_bytes=7_516_192_768,
    working_set_bytes=5_010_800_640,
    virtual_gpu=True,
    python="3.11.9",
    packages={"torch": "2.14.0", "transformers": "4.57.1"},
)

TINY = Target(
    name="tiny-drive",
    profile="tiny-drive (from the package)",
    path="/root/.cache/mpsprobe/tiny-drive",
    architecture="mpsprobe.models.tiny.TinyDrive",
    parameters=4_812_034,
    weight_bytes=19_248_136,
    dtype="float32",
)

_TITLES = {
    Phase.AVAILABILITY: ["This torch is built with MPS", "MPS computes what the CPU computes"],
    Phase.PINS: ["Installed packages satisfy the target"],
    Phase.DOWNLOAD: ["All files of the snapshot are there"],
    Phase.TRANSFER: ["Every parameter is on the device", "Parameters have the dtype asked for"],
    Phase.DATA: ["A sample is processed and moved", "No tensor is float64 or complex128"],
    Phase.INFERENCE: [
        "The forward pass runs",
        "Outputs are within the profile's bounds",
        "Outputs agree with float32 on CPU",
    ],
}


def passed(device: str, evidence: Evidence, host: Host = LINUX) -> Run:
    """All six phases pass; phases 4 to 6 with this device and evidence."""
    run = Run(
        mpsprobe="0.1.0",
        id="20261122T131500Z-4f2a",
        started="2026-11-22T13:15:00Z",
        ended="2026-11-22T13:15:21Z",
        command=["mpsprobe", "run", "--device", device],
        target=deepcopy(TINY),
        host=deepcopy(host),
        device=DeviceChoice(requested="auto", used=device, reason=f"{device} was the best this machine has"),
    )
    run.limits = limits(run.device, run.host)  # as phase 1 writes them
    for phase, titles in _TITLES.items():
        own = phase.order >= Phase.TRANSFER.order
        for number, title in enumerate(titles, start=1):
            run.checks.append(
                Check(
                    id=f"{phase.value}.check{number}",
                    phase=phase,
                    title=title,
                    status=Status.PASS,
                    evidence=evidence if own else Evidence.MEASURED,
                    device=device if own else "host",
                    message="It holds.",
                    duration_s=0.12 * number,
                )
            )
    if host.system != "Darwin":
        skipped = run.checks[1]
        skipped.status, skipped.evidence, skipped.message = (
            Status.SKIPPED,
            None,
            "This machine has no MPS device.",
        )
        run.checks[0].status = Status.WARN
        run.checks[0].message = "torch 2.13.0+cpu is built without MPS: it is a Linux build."
        run.checks[
            0
        ].remedy = "Run on a Mac to measure; `mpsprobe run --device emulated` shows MPS's rules here."
    elif device == "mps":
        run.checks[1].device = "mps"
    run.checks[2].table = Table(
        columns=["package", "required", "found", "verdict"],
        rows=[
            ["torch", ">=2.4", host.packages["torch"], "pass"],
            ["transformers", "==4.57.1", "4.57.1", "pass"],
            ["huggingface-hub", "<1.0,>=0.34", "0.36.0", "pass"],
        ],
    )
    find(run, "transfer.check1").measurements = [
        Measurement("load time", 0.8421, "s", evidence, device),
        Measurement("weights on the device", 19_248_136, "bytes", evidence, device),
        Measurement("peak memory", 412_876_800, "bytes", Evidence.MEASURED, "host"),
    ]
    find(run, "inference.check1").measurements = [
        Measurement("time per sample", 0.05132, "s", evidence, device),
        Measurement("samples", 5, "", evidence, device),
        Measurement("peak memory while running", 38_240_256, "bytes", evidence, device),
        Measurement("driver memory", None, "this device has no such counter", evidence, device),
    ]
    find(run, "inference.check3").measurements = [
        Measurement("largest relative difference of `trajectory`", 3.1e-7, "", evidence, device),
        Measurement("reasoning trace", "slow down for the <crossing> | keep lane", "", evidence, device),
        Measurement("finite", True, "", evidence, device),
    ]
    return run


def find(run: Run, check_id: str) -> Check:
    return next(check for check in run.checks if check.id == check_id)


def pins_failed() -> Run:
    """Phase 2 fails on a Mac, phases 3 to 6 are blocked: the seed's own case."""
    run = passed("mps", Evidence.MEASURED, M1_MAX)
    pins = find(run, "pins.check1")
    pins.status = Status.FAIL
    pins.message = "2 of 3 requirements are not met: huggingface-hub 1.3.2 (<1.0), tokenizers 0.21.4 (>=0.22)"
    pins.remedy = '`python -m pip install "huggingface-hub<1.0,>=0.34" "tokenizers>=0.22,<0.23"`'
    pins.table = Table(
        columns=["package", "required", "found", "verdict"],
        rows=[
            ["torch", "==2.8.0", "2.8.0", "pass"],
            ["huggingface-hub", "<1.0,>=0.34", "1.3.2", "fail"],
            ["tokenizers", ">=0.22,<0.23", "0.21.4", "fail"],
            ["flash-attn", None, None, "skipped"],
        ],
    )
    for check in run.checks:
        if check.phase.order > Phase.PINS.order:
            check.status, check.evidence, check.blocked_by = Status.BLOCKED, None, Phase.PINS
            check.message = "huggingface-hub 1.3.2 does not satisfy <1.0"
            check.device, check.measurements, check.duration_s = "host", [], 0.0
    return run


STDERR = """Fatal Python error: Aborted

Current thread 0x00000001f4c8 (most recent call first):
  File "/opt/venv/lib/python3.12/site-packages/torch/nn/modules/module.py", line 1355 in convert
  File "/opt/venv/lib/python3.12/transformers/modeling_utils.py", line 4459 in to
\x1b[31m-[MTLDebugCommandEncoder dispatch:]:1339: failed assertion `size < max & "ok"'\x1b[0m
<script>alert("not markup")</script> \x00 | pipe"""


def crashed() -> Run:
    """The process dies with SIGABRT in phase 4; the check in flight never ended."""
    run = passed("mps", Evidence.MEASURED, M1_MAX)
    run.checks = [check for check in run.checks if check.phase.order < Phase.TRANSFER.order]
    run.ended = ""
    run.interruption = Interruption("crashed", "SIGABRT", "transfer.placement", STDERR)
    return run


def crashed_with_check() -> Run:
    """The same as the journal's replay words it: the check in flight is among the checks."""
    run = crashed()
    run.checks.append(
        Check(
            id="transfer.placement",
            phase=Phase.TRANSFER,
            title="Every parameter is on the device",
            status=Status.CRASHED,
            message="The run was crashed by SIGABRT while this check was in flight.",
            output=STDERR,
        )
    )
    for phase in (Phase.DATA, Phase.INFERENCE):
        run.checks.append(
            Check(
                id=f"{phase.value}.check1",
                phase=phase,
                title="Blocked",
                status=Status.BLOCKED,
                blocked_by=Phase.TRANSFER,
                message="The run was crashed by SIGABRT in phase 4 (transfer).",
            )
        )
    return run


def timed_out() -> Run:
    """Phase 6 hangs past its limit."""
    run = passed("mps", Evidence.MEASURED, M1_MAX)
    run.checks = run.checks[:-2]
    run.checks.append(
        Check(
            id="inference.generate",
            phase=Phase.INFERENCE,
            title="The target's own inference runs",
            status=Status.TIMEOUT,
            device="mps",
            message="Took longer than its limit of 1800 s.",
            remedy="Raise `limits.inference` in the profile, or look at the stack below.",
            output="stack",
            duration_s=1815.2,
        )
    )
    run.interruption = Interruption("timeout", "", "inference.generate", "stack")
    run.ended = ""
    return run


def interrupted() -> Run:
    """The user presses Ctrl-C during the download."""
    run = passed("mps", Evidence.MEASURED, M1_MAX)
    run.checks = [check for check in run.checks if check.phase.order < Phase.DOWNLOAD.order]
    run.interruption = Interruption("interrupted", "SIGINT", "download.fetch", "")
    run.ended = ""
    return run


def _meta(dtype: str, *shape: int) -> TensorMeta:
    strides, step = [], 1
    for length in reversed(shape):
        strides.append(step)
        step *= length
    return TensorMeta(dtype, tuple(shape), tuple(reversed(strides)), "mps:0")


def emulated() -> Run:
    """Phase 6 fails on a missing op on the emulated device; op uses of many layers."""
    run = passed("emulated", Evidence.EMULATED)
    use = OpUse(
        op="aten::cholesky_solve",
        inputs=[_meta("float32", 64, 1), _meta("float32", 64, 64)],
        module="action_space",
        source="mpsprobe/models/tiny/actions.py:88",
        verdict=OpVerdict.RAISES,
        via="aten::cholesky_solve.out",
        advisories=["mps-cholesky-solve-missing"],
        evidence=Evidence.EMULATED,
    )
    run.op_uses = [
        OpUse(
            op="aten::mm",
            inputs=[_meta("float32", 128, 64), _meta("float32", 64, 64)],
            module=f"vlm.layers.{layer}.self_attn.q_proj",
            source="transformers/models/qwen3_vl/modeling_qwen3_vl.py:412",
            count=3,
            verdict=OpVerdict.NATIVE,
            evidence=Evidence.EMULATED,
            flops=3 * 2 * 128 * 64 * 64,
            bytes=3 * 4 * (2 * 128 * 64 + 64 * 64),
        )
        for layer in range(4)
    ] + [
        use,
        OpUse(
            op="aten::isin.Tensor_Tensor",
            inputs=[_meta("int64", 1, 300), _meta("int64", 2)],
            module="vlm",
            source="tiny/model.py:40",
            verdict=OpVerdict.FALLBACK,
            count=12,
            evidence=Evidence.EMULATED,
        ),
        OpUse(
            op="aten::linear",
            inputs=[_meta("float32", 1, 64), _meta("float32", 64, 64)],
            module="",
            verdict=OpVerdict.COMPOSITE,
            via="aten::addmm",
            count=30,
            evidence=Evidence.EMULATED,
        ),
        OpUse(op="custom::scan|x", inputs=[], verdict=OpVerdict.UNKNOWN, evidence=Evidence.PREDICTED),
    ]
    failing = find(run, "inference.check1")
    failing.status = Status.FAIL
    failing.message = (
        "The operator `aten::cholesky_solve` is not currently implemented for the MPS device "
        "(https://github.com/pytorch/pytorch/issues/154052). Called at mpsprobe/models/tiny/actions.py:88"
    )
    failing.remedy = (
        "Set `PYTORCH_ENABLE_MPS_FALLBACK=1` before Python starts, or solve with `torch.linalg.solve`."
    )
    failing.output = (
        'Traceback (most recent call last):\n  File "actions.py", line 88, in solve\nNotImplementedError: ...'
    )
    failing.measurements = []
    for check_id in ("inference.check2", "inference.check3"):
        check = find(run, check_id)
        check.status, check.evidence, check.measurements = Status.UNKNOWN, None, []
        check.message = "Not checked: there is no output to look at."
    run.limits = [
        "Contract: torch 2.13 on macOS 15.5; the code that ran is that of the installed torch 2.13.0+cpu."
    ]
    run.checks += [
        Check(
            id=f"ops.aten.mm-f32-{size}x64_64x64",
            phase=Phase.OPS,
            title=f"aten::mm on {size}x64 agrees with CPU",
            status=Status.PASS,
            evidence=Evidence.EMULATED,
            device="emulated",
            duration_s=0.004,
        )
        for size in range(1, 31)
    ]
    return run


def virtual_gpu() -> Run:
    """All pass on mps, on a CI runner."""
    return passed("mps", Evidence.MEASURED, RUNNER)


ALL: dict[str, Build] = {
    "cpu": lambda: passed("cpu", Evidence.MEASURED),
    "mps": lambda: passed("mps", Evidence.MEASURED, M1_MAX),
    "pins": pins_failed,
    "crashed": crashed,
    "crashed_with_check": crashed_with_check,
    "timeout": timed_out,
    "interrupted": interrupted,
    "emulated": emulated,
    "virtual_gpu": virtual_gpu,
}
