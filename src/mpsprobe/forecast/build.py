"""A forecast: memory and time of a recorded run on the Mac asked about, and its time elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mpsprobe.forecast import machine as machines
from mpsprobe.forecast import memory as memories
from mpsprobe.forecast.kinds import kind_of
from mpsprobe.forecast.machine import Machine
from mpsprobe.forecast.stages import Stage, stages
from mpsprobe.forecast.timing import Work, timing
from mpsprobe.forecast.trace import Trace
from mpsprobe.forecast.transfer import transfers
from mpsprobe.knowledge import cloud, hardware
from mpsprobe.knowledge.cloud import Network
from mpsprobe.mac.lineup import NamedMac
from mpsprobe.run import Evidence, Forecast, Mac, OpVerdict

#: GPUs that every forecast is set beside: the seed's cloud rows and those that our figures were checked on.
ELSEWHERE = ("rtx-3090", "rtx-4090", "a100-sxm4-80gb", "h100", "h200")


@dataclass(frozen=True)
class Wish:
    """What is to be forecast.

    Attributes:
        mac: the Mac by name; None where only the releases are known.
        tokens: new tokens of a sample, where that differs from the run's.
        calibrated: devices that were calibrated.
        elsewhere: GPUs of the hardware table by name.
        network: rates of transfer; None for the assumed ones.
    """

    mac: NamedMac | None = None
    tokens: int | None = None
    calibrated: Sequence[Machine] = field(default_factory=tuple)
    elsewhere: Sequence[str] = ELSEWHERE
    network: Network | None = None


def build(
    trace: Trace,
    mac: Mac,
    wish: Wish,
    *,
    dtypes: Mapping[str, int],
    evidence: Evidence = Evidence.PREDICTED,
) -> Forecast:
    """Forecast a run.

    Args:
        trace: the run, its uses judged.
        mac: the Mac asked about.
        wish: what of it.
        dtypes: parameters of the model by dtype.
        evidence: of the op uses.
    """
    found = stages(trace)
    work = Work.of(trace, found)
    memory = time = None
    notes: list[str] = []
    if wish.mac is not None:
        memory = memories.memory(
            trace,
            found,
            memory_bytes=wish.mac.memory_bytes,
            macos=wish.mac.macos,
            dtypes=dtypes,
            tokens=wish.tokens,
        )
        machine = machines.of_mac(wish.mac, mac.torch)
        notes += machine.notes
        time = timing(work, machine, wish.tokens)
        network = wish.network or cloud.shipped().network
        time.parts = [*transfers(trace.weights, machine.bandwidth, network), *time.parts]
    others = [machines.of_gpu(gpu) for name in wish.elsewhere if (gpu := hardware.find(name)) is not None]
    return Forecast(
        mac=mac,
        evidence=evidence,
        memory=memory,
        time=time,
        elsewhere=[timing(work, one, wish.tokens) for one in (*wish.calibrated, *others)],
        limits=[*notes, *_limits(trace, found, wish)],
    )


def _limits(trace: Trace, found: Sequence[Stage], wish: Wish) -> list[str]:
    """What a forecast cannot say, one sentence each."""
    texts = [
        "Inside an op nothing is seen: workspaces of MPSGraph and of matmul kernels, and passes over memory beyond "
        "the least.",
        "Memory that the allocator keeps for reuse, and buffers still in flight on the GPU, are not counted.",
        "The host's own memory (Python, torch, the files while they are read) is not counted: some 1 GiB.",
    ]
    if wish.mac is not None:
        texts.append(
            "What PyTorch reaches of this Mac's peaks comes from published runs of large matmuls and copies; heat, "
            "battery and other programs are not in it, and the first run of each new shape compiles its kernels."
        )
        if any(kind_of(use.op) == "conv" for use in trace.uses):
            texts.append("Convolutions are taken to reach what matmuls reach: nobody published theirs.")
        texts.append(
            "Download and load are the bytes of the weights over assumed rates, in a wide range: measure your line."
        )
    fallbacks = sum(use.count for use in trace.uses if use.verdict is OpVerdict.FALLBACK)
    if fallbacks:
        texts.append(
            f"{fallbacks:,} calls fall back to the CPU: their copies and waits are counted, and their work there only "
            "as reading and writing its memory."
        )
    raising = sum(use.count for use in trace.uses if use.verdict is OpVerdict.RAISES)
    if raising:
        texts.append(f"{raising:,} calls raise on that Mac: they are counted as if they ran.")
    unknown = sum(use.count for use in trace.uses if use.bytes is None)
    if unknown:
        texts.append(f"{unknown:,} calls have no formula for their bytes: they count as a launch alone.")
    if wish.tokens is not None and not any(stage.name == "decode" and stage.repeats > 1 for stage in found):
        texts.append("The run has no decode steps to carry on: the number of tokens changes nothing.")
    return texts
