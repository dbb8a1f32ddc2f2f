"""The Mac a question is about, as far as the tables and the virtual device need it."""

from __future__ import annotations

from mpsprobe.mac.lineup import named
from mpsprobe.run import Host, Mac

__all__ = ["Mac", "ask"]


def ask(
    host: Host,
    installed_torch: str,
    *,
    name: str | None = None,
    torch: str | None = None,
    macos: str | None = None,
    fallback: bool = False,
) -> Mac:
    """Return the Mac that is meant: a named one, or the one at hand, or one of which only the releases are known.

    Args:
        host: this machine.
        installed_torch: release installed here; stands in where none is asked for.
        name: e.g. `"m1-max-64"`.
        torch: release asked about.
        macos: version asked about.
        fallback: whether the fallback variable is set there.

    Raises:
        UsageError: no Mac of that name.
    """
    release = torch or installed_torch
    if name is not None:
        meant = named(name, macos)
        return Mac(release, macos, meant.chip, meant.memory_bytes / (1 << 30), fallback)
    if host.system == "Darwin":
        memory = host.memory_bytes / (1 << 30) if host.memory_bytes else None
        return Mac(release, macos or host.os_version, host.chip, memory, fallback)
    return Mac(release, macos, fallback=fallback)
