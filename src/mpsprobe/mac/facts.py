"""Read facts of this machine: chip, GPU, memory, macOS, and the sandbox or container around this process.

`System` is the one interface to the operating system, so that tests can replay the output of real Macs.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import psutil

from mpsprobe.run import Host


class System(Protocol):
    """An operating system as a source of facts about a machine."""

    @property
    def system(self) -> str:
        """Return `"Darwin"`, `"Linux"` and so on, as `platform.system()` does."""

    @property
    def machine(self) -> str:
        """Return the architecture of this process, as `platform.machine()` does."""

    @property
    def release(self) -> str:
        """Return the kernel's version, as `platform.release()` does: `"24.5.0"` for macOS 15.5."""

    @property
    def environ(self) -> Mapping[str, str]:
        """Return the environment variables of this process."""

    def output(self, *command: str, timeout: float = 5.0) -> str:
        """Return the standard output of `command`, whatever its exit status; empty when it cannot run or times out."""

    def text(self, path: str) -> str:
        """Return the text of a file; empty when it cannot be read."""

    def exists(self, path: str) -> bool:
        """Return whether there is a file at `path`."""

    def sandboxed(self) -> bool | None:
        """Return whether macOS runs this process in a sandbox; None when that cannot be determined."""

    def memory(self) -> int:
        """Return the physical memory in bytes."""


class LocalSystem:
    """The operating system that this process runs on, as a `System`."""

    system = platform.system()
    machine = platform.machine()
    release = platform.release()

    @property
    def environ(self) -> Mapping[str, str]:
        return os.environ

    def output(self, *command: str, timeout: float = 5.0) -> str:
        # Without SYSTEM_VERSION_COMPAT=0, macOS 11 and later reports 10.16 to binaries linked against an old SDK
        # (conda's Python among them), and to the commands that they start.
        environment = {**os.environ, "SYSTEM_VERSION_COMPAT": "0", "LC_ALL": "C"}
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=timeout,
                env=environment,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.decode(errors="replace")

    def text(self, path: str) -> str:
        try:
            return Path(path).read_text(errors="replace")
        except OSError:
            return ""

    def exists(self, path: str) -> bool:
        return Path(path).exists()

    def sandboxed(self) -> bool | None:
        if self.system != "Darwin":
            return None
        try:
            # sandbox_check(pid, NULL, SANDBOX_FILTER_NONE) of libSystem returns 1 when any profile is applied.
            check = ctypes.CDLL(None).sandbox_check
        except (OSError, AttributeError):
            return None
        return bool(check(os.getpid(), None, 0))

    def memory(self) -> int:
        return int(psutil.virtual_memory().total)


def environment_at_start() -> dict[str, str] | None:
    """Return the variables that this process was started with; None where the system does not reveal them.

    Linux keeps them in /proc/self/environ, macOS behind sysctl KERN_PROCARGS2 (not for programs under System
    Integrity Protection, such as /usr/bin/python3).
    """
    try:
        return psutil.Process().environ() or None
    except psutil.Error:
        return None


#: Distributions whose versions matter to a run.
PACKAGES = (
    "torch",
    "torchvision",
    "torchaudio",
    "transformers",
    "tokenizers",
    "huggingface-hub",
    "safetensors",
    "accelerate",
    "diffusers",
    "peft",
    "numpy",
    "mlx",
)

_SYSCTLS = (
    "machdep.cpu.brand_string",
    "hw.memsize",
    "hw.logicalcpu",
    "hw.model",
    "hw.optional.arm64",
    "sysctl.proc_translated",
    "kern.hv_vmm_present",
    "iogpu.wired_limit_mb",
)

#: macOS versions by Darwin's major release; the sequence has a gap before Darwin 25 (macOS 26).
_MACOS_OF_DARWIN = {20: "11", 21: "12", 22: "13", 23: "14", 24: "15", 25: "26", 26: "27"}

#: macOS 11 and later reports this version to processes that are translated or were built with an old SDK.
_COMPATIBILITY_VERSION = "10.16"


def host(system: System | None = None) -> Host:
    """Read the facts of this machine. That takes about a second on a Mac (system_profiler), milliseconds elsewhere.

    Args:
        system: The source of the facts; None for this machine.

    Returns:
        The facts; those that could not be read are None. `working_set_bytes` is filled only where the owner has set
        `iogpu.wired_limit_mb`, because Metal's own figure needs torch (`device.real`).
    """
    system = system or LocalSystem()
    found = _mac(system) if system.system == "Darwin" else _other(system)
    found.container = _confinement(system)
    found.python = platform.python_version()
    found.packages = _packages()
    return found


def is_virtual_gpu(*names: str | None) -> bool:
    """Return whether a chip, GPU or model name is that of Apple's paravirtual GPU (virtual machines, CI runners).

    Observed names: GPU "Apple Paravirtual device" (MLX and llama.cpp on GitHub's macos-14 and 15), chip
    "Apple M1 (Virtual)", model "VirtualMac2,1".
    """
    marks = ("paravirt", "(virtual)", "virtualmac")
    return any(mark in name.lower() for name in names if name for mark in marks)


def _mac(system: System) -> Host:
    sysctl = _sysctl(system)
    chip = sysctl.get("machdep.cpu.brand_string") or None
    # A translated Python reports x86_64, so the hardware is asked. proc_translated is not enough:
    # it describes the sysctl process, which may run natively.
    arm64 = "1" in (sysctl.get("hw.optional.arm64"), sysctl.get("sysctl.proc_translated"))
    arm64 = arm64 or system.machine == "arm64"
    rosetta = arm64 and system.machine != "arm64"
    gpu, cores = _gpu(system)
    virtual = arm64 and (
        is_virtual_gpu(chip, gpu, sysctl.get("hw.model")) or sysctl.get("kern.hv_vmm_present") == "1"
    )
    wired_limit = _integer(sysctl.get("iogpu.wired_limit_mb"))
    return Host(
        system="Darwin",
        machine="arm64" if arm64 else system.machine,
        os_version=_macos(system),
        chip=chip,
        cpu_cores=_integer(sysctl.get("hw.logicalcpu")),
        gpu=gpu,
        gpu_cores=cores,
        memory_bytes=_integer(sysctl.get("hw.memsize")) or system.memory(),
        # Metal's figure follows this setting: github.com/antirez/ds4/pull/893 (114688 MB -> 112.00 GiB).
        working_set_bytes=wired_limit * 2**20 if wired_limit else None,
        virtual_gpu=virtual,
        rosetta=rosetta,
    )


def _other(system: System) -> Host:
    return Host(
        system=system.system,
        machine=system.machine,
        os_version=system.release,
        chip=_linux_chip(system) or platform.processor() or None,
        cpu_cores=os.cpu_count(),
        memory_bytes=system.memory(),
    )


def _sysctl(system: System) -> dict[str, str]:
    """Return the values of `_SYSCTLS` by name, read in one call; names that this Mac does not have are missing."""
    values = {}
    for line in system.output("/usr/sbin/sysctl", *_SYSCTLS).splitlines():
        name, colon, value = line.partition(": ")
        if colon:
            values[name.strip()] = value.strip()
    return values


def _macos(system: System) -> str:
    version = system.output("/usr/bin/sw_vers", "-productVersion").strip()
    if version and version != _COMPATIBILITY_VERSION:
        return version
    darwin = _integer(system.release.split(".")[0])
    return _MACOS_OF_DARWIN.get(darwin or 0, version or "unknown")


def _gpu(system: System) -> tuple[str | None, int | None]:
    """Return name and cores of the GPU from system_profiler, else from IOKit (some sandboxes); None when unknown."""
    output = system.output("/usr/sbin/system_profiler", "-json", "SPDisplaysDataType", timeout=20.0)
    try:
        cards = json.loads(output)["SPDisplaysDataType"]
    except (json.JSONDecodeError, KeyError, TypeError):
        cards = []
    cards = [card for card in cards if isinstance(card, dict)]
    # An Intel Mac can have two GPUs; Apple's own is preferred.
    cards.sort(key=lambda card: "Apple" not in str(card.get("spdisplays_vendor", "")))
    for card in cards:
        # _name is a key of a strings table on old releases ("kHW_AppleM1Item"); sppci_model is readable.
        name = card.get("sppci_model") or card.get("_name")
        if name:
            return str(name), _integer(card.get("sppci_cores"))
    tree = system.output("/usr/sbin/ioreg", "-r", "-d", "1", "-w", "0", "-c", "IOAccelerator")
    model = re.search(r'"model" = "([^"]+)"', tree)
    count = re.search(r'"gpu-core-count" = (\d+)', tree)
    if model is None and "AppleParavirt" in tree:
        return "Apple Paravirtual device", None
    return (model[1] if model else None), (int(count[1]) if count else None)


def _confinement(system: System) -> str | None:
    """Return the kind of container or, on macOS, of sandbox around this process; None when none is seen."""
    environ = system.environ
    if system.system == "Darwin":
        if environ.get(
            "CODEX_SANDBOX"
        ):  # github.com/openai/codex/issues/10199: is_available() is False there
            return f"codex sandbox ({environ['CODEX_SANDBOX']})"
        return "sandbox" if environ.get("APP_SANDBOX_CONTAINER_ID") or system.sandboxed() else None
    if system.system != "Linux":
        return None
    if system.exists("/run/.containerenv"):
        return "podman"
    if system.exists("/.dockerenv"):
        return "docker"
    if environ.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    if environ.get("container"):  # systemd's convention, followed by lxc and others
        return environ["container"]
    found = re.search(r"docker|kubepods|lxc|containerd", system.text("/proc/1/cgroup"))
    return found[0] if found else None


def _linux_chip(system: System) -> str | None:
    text = system.text("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    if model:
        return model[1].strip()
    # arm64 Linux has no model name. 0x61 is Apple (a virtual machine on an M3: Dr-Noob/cpufetch issue 229).
    return (
        "Apple (virtual machine)" if re.search(r"^CPU implementer\s*:\s*0x61$", text, re.MULTILINE) else None
    )


def _integer(value: object) -> int | None:
    try:
        return int(str(value))
    except ValueError:
        return None


def _packages() -> dict[str, str]:
    # one that is half removed has no METADATA, and no name
    names = [item.metadata["Name"] for item in importlib.metadata.distributions()]
    present = {name.lower().replace("_", "-") for name in names if name}
    return {name: importlib.metadata.version(name) for name in PACKAGES if name in present}
