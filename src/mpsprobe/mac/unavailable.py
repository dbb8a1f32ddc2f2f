"""Find the reason why MPS is unavailable on a machine, behind PyTorch's one message for all causes.

PyTorch says "The MPS backend is supported on macOS 14.0+" whenever it finds no device, even where macOS is new
enough (pytorch issues 177819, 167679; a sandbox: openai/codex 10199; a Linux container: pytorch 96066).
"""

from __future__ import annotations

from dataclasses import dataclass

from mpsprobe.knowledge.environment import intel, macos_allows
from mpsprobe.run import Host


@dataclass(frozen=True)
class Unavailability:
    """One reason why MPS is unavailable.

    Attributes:
        cause: A short name: `"no-torch"`, `"no-mac"`, `"intel"`, `"rosetta"`, `"not-built"`, `"macos"`,
            `"sandbox"`, `"virtual-gpu"`, `"no-device"` or `"does-not-compute"`.
        what: The reason in one sentence.
        remedy: How to fix or avoid it.
    """

    cause: str
    what: str
    remedy: str


@dataclass(frozen=True)
class TorchFacts:
    """Facts of the installed torch.

    Attributes:
        version: The release, such as `"2.13.0+cpu"`; None when torch is not installed.
        built: Whether it was compiled with MPS (`torch.backends.mps.is_built()`).
        available: Whether it finds an MPS device (`torch.backends.mps.is_available()`).
        broken: The error message of its import; empty when it can be imported.
    """

    version: str | None
    built: bool = False
    available: bool = False
    broken: str = ""


def why_no_mps(host: Host, torch: TorchFacts) -> Unavailability | None:
    """Return the first cause that explains a missing MPS device; None when torch finds one on a Mac.

    The order matters, because each cause hides those after it. The answer of torch counts only on a Mac; elsewhere
    a device that it finds is the virtual one.
    """
    if host.system != "Darwin":
        return _elsewhere(host)
    if torch.available:
        return None
    if host.machine != "arm64":
        return Unavailability(
            "intel",
            f"This Mac has an Intel processor ({host.chip or 'unknown'}). {intel('2.4').message}",
            "Use a Mac with Apple silicon; on this one the model runs on the CPU.",
        )
    if host.rosetta:
        return Unavailability(
            "rosetta",
            "Python is an x86-64 build under Rosetta, for which no torch has a working MPS.",
            "Install an arm64 Python (python.org, Homebrew in /opt/homebrew, or Miniforge for arm64) "
            "and make a new environment with it.",
        )
    if torch.version is None:
        return _no_torch(torch)
    if not torch.built:
        return Unavailability(
            "not-built",
            f"torch {torch.version} was compiled without MPS.",
            "Install the wheel from PyPI: pip install --force-reinstall torch.",
        )
    allowed = None if host.os_version == "unknown" else macos_allows(torch.version, host.os_version)
    if allowed is not None and allowed.ok is False:
        return Unavailability("macos", allowed.message, "Update macOS, or install the torch named.")
    if host.container:
        return Unavailability(
            "sandbox",
            f"This process is confined ({host.container}), which hides Metal's devices from it.",
            "Run it in a plain Terminal, outside of the sandbox or agent that started it.",
        )
    if host.virtual_gpu:
        return Unavailability(
            "virtual-gpu",
            "This is a virtual machine and PyTorch takes no paravirtual GPU that lacks MTLGPUFamilyMac2.",
            "Run on a real Mac; of GitHub's runners macos-15 is known to compute.",
        )
    return Unavailability(
        "no-device",
        "torch has MPS and macOS is new enough, yet Metal gives it no device; the cause is unknown.",
        "Try the same Python in a plain Terminal of a logged-in user; "
        "`system_profiler SPDisplaysDataType` shows whether macOS itself sees the GPU.",
    )


def _elsewhere(host: Host) -> Unavailability:
    if host.container and (host.chip or "").startswith("Apple"):
        return Unavailability(
            "no-mac",
            f"This is {host.system} in {host.container} on an Apple chip; Metal does not reach into it.",
            "Run outside of the container, in macOS itself.",
        )
    return Unavailability(
        "no-mac",
        f"This is {host.system} on {host.machine}; MPS needs a Mac.",
        "Run this on a Mac, or use --device emulated for what can be known without one.",
    )


def _no_torch(torch: TorchFacts) -> Unavailability:
    if torch.broken:
        return Unavailability("no-torch", f"torch cannot be imported: {torch.broken}.", "Reinstall torch.")
    return Unavailability("no-torch", "torch is not installed.", "pip install torch")
