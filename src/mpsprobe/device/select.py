"""Choose the device of a run, with the reason, and state what its results cannot show."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from mpsprobe import launch
from mpsprobe.device.emulated import Emulated
from mpsprobe.device.installed import torch_facts
from mpsprobe.device.real import Cpu, Cuda, Device, Mps
from mpsprobe.device.self_test import Product, SelfTest
from mpsprobe.device.virtual.support import DOCKER
from mpsprobe.errors import MpsprobeError, UnsupportedInstallError, UsageError
from mpsprobe.mac.unavailable import Unavailability, why_no_mps
from mpsprobe.run import DEVICES, DeviceChoice, Host, Mac, Status

#: The seconds without an answer after which a device counts as hung. Importing torch on a cold Mac and compiling
#: the first Metal kernels take a few; macos-14 runners hang for ever (sleap-nn PR 695).
PROBE_LIMIT = 90.0


class DeviceUnavailableError(MpsprobeError):
    """A device was requested by name and is not available here."""


@dataclass(frozen=True)
class Probe:
    """The outcome of trying a device in a child process.

    Attributes:
        status: Pass, fail (an error, a fault of the GPU or a wrong result), crashed, timeout, or error (the child
            gave no answer that can be read).
        reason: The reason in one line.
        remedy: What to do about it; empty for a pass.
        output: The last lines of the child's stderr, for an error of its stdout too; empty where they add nothing.
    """

    status: Status
    reason: str
    remedy: str = ""
    output: str = ""


def choose(
    requested: str,
    host: Host,
    probe: Callable[[str], Probe] | None = None,
    emulated: Callable[[], Device] = lambda: Emulated(Mac(torch="")),
) -> tuple[Device, DeviceChoice]:
    """Choose the device for `--device requested`, and return it with the reason for the choice.

    `auto` is mps where a probe shows that it computes, else the virtual device, else the CPU.

    Args:
        requested: One of `DEVICES`.
        host: The facts of this machine, for the reasons.
        probe: A function that tries a device; None for `probe_device`, called at most once in this process.
        emulated: A function that makes the virtual device of the target Mac.

    Raises:
        UsageError: `requested` is none of `DEVICES`.
        DeviceUnavailableError: mps, cuda or emulated was requested and is unavailable, for the reason in the
            message.
    """
    probe = probe or _probe_once
    if requested not in DEVICES:
        raise UsageError(f"No device is called {requested!r}.", f"Devices: {', '.join(DEVICES)}.")
    if requested == "auto":
        return _automatic(host, probe, emulated)
    if requested == "mps":
        unavailable = why_mps_unavailable(host, probe)
        if unavailable:
            raise DeviceUnavailableError(unavailable.what, unavailable.remedy)
        return Mps(), DeviceChoice(requested, "mps", "asked for; it computes")
    if requested == "cuda":
        if not torch.cuda.is_available():
            raise DeviceUnavailableError(
                f"torch {torch.__version__} finds no CUDA device.",
                "Install a CUDA build of torch on a machine with an NVIDIA GPU, or leave --device out.",
            )
        return Cuda(), DeviceChoice(requested, "cuda", "asked for")
    if requested == "emulated":
        try:
            device = emulated()
        except UnsupportedInstallError as problem:
            raise DeviceUnavailableError(problem.what, problem.hint) from problem
        return device, DeviceChoice(requested, "emulated", _with_assumptions("asked for", device))
    return Cpu(), DeviceChoice(requested, "cpu", "asked for")


def _automatic(
    host: Host, probe: Callable[[str], Probe], emulated: Callable[[], Device]
) -> tuple[Device, DeviceChoice]:
    unavailable = why_mps_unavailable(host, probe)
    if unavailable is None:
        return Mps(), DeviceChoice("auto", "mps", "MPS computes here")
    try:
        device = emulated()
        return device, DeviceChoice("auto", "emulated", _with_assumptions(unavailable.what, device))
    except UnsupportedInstallError as problem:
        return Cpu(), DeviceChoice("auto", "cpu", f"{unavailable.what} {problem.what}")


def _with_assumptions(reason: str, device: Device) -> str:
    """Return the reason for a choice, followed by what the virtual device assumes of a Mac that was not named."""
    assumed = device.assumptions if isinstance(device, Emulated) else ""
    return f"{reason.rstrip('.')}; {assumed}" if assumed else reason


def why_mps_unavailable(host: Host, probe: Callable[[str], Probe] | None = None) -> Unavailability | None:
    """Return why MPS cannot be used here: there is none, or it fails its probe; None when it computes."""
    unavailable = why_no_mps(host, torch_facts())
    if unavailable:
        return unavailable
    outcome = (probe or _probe_once)("mps")
    if outcome.status is Status.PASS:
        return None
    return Unavailability("does-not-compute", outcome.reason, outcome.remedy)


@functools.cache
def _probe_once(name: str) -> Probe:
    """Probe a device, at most once a process, because a broken one stays broken and a probe takes seconds."""
    return probe_device(name)


def probe_device(name: str, limit: float = PROBE_LIMIT, command: list[str] | None = None) -> Probe:
    """Multiply two small matrices on device `name` in a child process, and return how that ended.

    Args:
        name: A torch device: `"mps"`, `"cpu"`.
        limit: The time limit in seconds.
        command: The command to run instead of `python -m mpsprobe.device.self_test NAME`.
    """
    command = command or launch.python("mpsprobe.device.self_test", name)
    try:
        child = _in_child(command, limit)
    except subprocess.TimeoutExpired as late:
        tail = late.stderr.decode(errors="replace") if isinstance(late.stderr, bytes) else late.stderr or ""
        return Probe(
            Status.TIMEOUT,
            f"{name} is there but did not finish a small matrix product in {limit:g} s.",
            "Restart the Mac; on a CI runner move to macos-15 (macos-14 is known to hang).",
            _tail(tail),
        )
    if child.returncode < 0:
        return Probe(
            Status.CRASHED,
            f"{name} is there but a small matrix product ended its process by {_signal(-child.returncode)}.",
            "Read the last lines of its output; `mpsprobe explain` knows Metal's assertions.",
            _tail(child.stderr),
        )
    if child.returncode > 0:
        what, remedy = explain_failure(name, child.stderr)
        return Probe(Status.FAIL, what, remedy, _tail(child.stderr))
    # A fault of the GPU can count as success; only this line shows it (pytorch PR 193571).
    if "command buffer exited with error status" in child.stderr:
        return Probe(
            Status.FAIL,
            f"{name} reports a fault of the GPU while it multiplies two matrices.",
            "Read the output; update macOS and torch.",
            _tail(child.stderr),
        )
    try:
        product = Product(**json.loads(child.stdout.splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        return Probe(
            Status.ERROR,
            f"Whether {name} computes is not known: the child that tried it gave no answer.",
            "Please report it, with the output.",
            _tail(child.stdout + child.stderr),
        )
    if not product.right:
        return Probe(
            Status.FAIL,
            f"{name} computes a wrong matrix product: error {product.error:.1e}, "
            f"accepted {product.tolerance:.1e}.",
            "Update macOS and torch; do not trust results of this device.",
            _tail(child.stderr),
        )
    return Probe(Status.PASS, f"{name} computes: error {product.error:.1e}.")


#: The seconds after which the self-test of prediction counts as hung; it imports torch and runs for a second.
SELF_TEST_LIMIT = 300.0


def probe_prediction(limit: float = SELF_TEST_LIMIT, command: list[str] | None = None) -> Probe:
    """Run the self-test of prediction in a child process, because on a Mac a fault in it ends the process.

    Args:
        limit: The time limit in seconds.
        command: The command to run instead of `python -m mpsprobe.device.self_test`.
    """
    remedy = f"Predict in Docker on this machine: {DOCKER} predict MODEL"
    try:
        child = _in_child(command or launch.python("mpsprobe.device.self_test"), limit)
    except subprocess.TimeoutExpired:
        return Probe(Status.TIMEOUT, f"The self-test of prediction did not end in {limit:g} s.", remedy)
    if child.returncode < 0:
        reason = f"The self-test of prediction was ended by {_signal(-child.returncode)}."
        return Probe(Status.CRASHED, reason, remedy, _tail(child.stderr))
    if child.returncode > 0:
        last = next((line for line in reversed(child.stderr.splitlines()) if line.strip()), "no message")
        return Probe(Status.FAIL, f"The self-test of prediction failed: {last}", remedy, _tail(child.stderr))
    try:
        outcome = SelfTest(**json.loads(child.stdout.splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        reason = "The self-test of prediction gave no answer."
        return Probe(Status.ERROR, reason, remedy, _tail(child.stdout + child.stderr))
    if outcome.wrong:
        return Probe(Status.FAIL, f"The self-test of prediction failed: {outcome.wrong}", remedy)
    return Probe(Status.PASS, f"A model of {outcome.peak / 1e12:.1f} TB was predicted without memory.")


def explain_failure(name: str, text: str) -> tuple[str, str]:
    """Return an explanation of an error of a device's first computation, and advice.

    Args:
        name: The name of the device.
        text: The error's message, or the child's stderr.
    """
    # CI runners: the first allocation fails although nothing is allocated. Observed as "MPS allocated: 0 bytes, ...
    # Tried to allocate 256 bytes on private pool" (runner-images 9918) and, in 2023, "... allocate 0 bytes".
    if re.search(r"MPS backend out of memory \(MPS allocated: 0 bytes", text):
        return (
            f"{name} refuses its first allocation with 0 bytes in use: the virtual GPU of a CI runner.",
            "Use a real Mac or a macos-15 runner; the watermark variables do not cure it (torchchat PR 974).",
        )
    if "MPS backend out of memory" in text:
        return (
            f"{name} is out of memory before anything was loaded.",
            "Close what else uses the GPU; a virtual GPU may allow about 1 GB in all (runner-images 11899).",
        )
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")
    return f"{name} is there but fails to multiply two matrices: {last}", "Read the output; update torch."


def limits(choice: DeviceChoice, host: Host) -> list[str]:
    """Return sentences that state what a run on the chosen device cannot show; none for mps on a physical GPU."""
    if choice.used == "mps":
        if not host.virtual_gpu:
            return []
        return [
            f"The GPU is a virtual one ({host.gpu or host.chip or 'unknown'}): "
            "virtual GPU, not evidence for real Macs."
        ]
    if choice.used == "emulated":
        return [
            "Emulated: MPS's rules over another device's arithmetic; "
            "it says nothing of a Mac's speed, of its kernels' numerics or of faults inside Metal."
        ]
    place = host.gpu if choice.used == "cuda" and host.gpu else f"this machine's {choice.used.upper()}"
    return [
        f"Measured on {place}, not on MPS: it says nothing of whether the target runs on a Mac's GPU, "
        "how fast, or how exactly."
    ]


def _in_child(command: list[str], limit: float) -> subprocess.CompletedProcess[str]:
    """Run a probe in a child process of at most `limit` seconds."""
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        timeout=limit,
        env=_child_environment(),
        check=False,
    )


def _child_environment() -> dict[str, str]:
    """Return a child's variables, with this process's import path so that the child finds the same mpsprobe."""
    here = str(Path.cwd())
    places = [place for place in sys.path if place and place != here]
    return launch.environment({**os.environ, "PYTHONPATH": os.pathsep.join(places)})


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _tail(text: str, lines: int = 8) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])
