"""The one interface to the operating system, so that tests can replay the output of real Macs."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import psutil


class System(Protocol):
    """The parts of an operating system from which facts about a machine are read."""

    @property
    def system(self) -> str:
        """Return `"Darwin"`, `"Linux"` and so on, as `platform.system()` does."""

    @property
    def machine(self) -> str:
        """Return the architecture of this process, as `platform.machine()` does."""

    @property
    def release(self) -> str:
        """Return the release of the kernel."""

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
        """Return whether macOS confines this process; None when that cannot be determined."""

    def memory(self) -> int:
        """Return the physical memory in bytes."""


class LocalSystem:
    """This machine."""

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
