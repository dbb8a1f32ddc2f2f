"""Collect the facts of a run's target, machine and tools, and how to repeat the run."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import datetime

from mpsprobe import quantities
from mpsprobe.report.templating import clean
from mpsprobe.run import Run


@dataclass(frozen=True)
class Fact:
    """A labelled value; `code` marks values that a reader copies, such as names, paths and hashes."""

    label: str
    value: str
    code: bool = False


@dataclass(frozen=True)
class FactList:
    """Facts about one subject, with a title and their origin in words."""

    title: str
    origin: str
    facts: tuple[Fact, ...]


def fact_lists(run: Run) -> tuple[FactList, ...]:
    """Return the lists of facts of target, machine, target Mac, versions and fallbacks; empty lists are left out."""
    lists = (
        FactList("Target", "from the command line, the profile and the model's files", tuple(_target(run))),
        FactList("Machine", "measured: read from the host", tuple(_machine(run))),
        FactList("Target Mac", "from the command line, or the machine at hand", tuple(_mac(run))),
        FactList("Versions", "measured: installed on the host", tuple(_versions(run))),
        FactList(
            "Ops that the CPU ran",
            "measured: logged by PyTorch (PYTORCH_MPS_LOG_PROFILE_INFO)",
            tuple(_logged_fallbacks(run)),
        ),
    )
    return tuple(known for known in lists if known.facts)


def command(run: Run) -> str:
    """Return the run's command line, quoted for a shell."""
    return clean(shlex.join(run.command))


def install(run: Run) -> str:
    """Return one pip command that installs the recorded versions; empty when none were recorded.

    Local versions (`2.13.0+cpu`) lose their suffix, because package indexes do not list them under that name. Where
    the rules of another torch release applied, a comment says which release ran and which one the rules are of.
    """
    pins = [f"{name}=={version.partition('+')[0]}" for name, version in run.host.packages.items() if version]
    if not pins:
        return ""
    apart = two_releases(run)
    line = shlex.join(["python", "-m", "pip", "install", *pins])
    return clean(f"# {apart}\n{line}" if apart else line)


def two_releases(run: Run) -> str:
    """Return which torch ran and whose rules applied, where those are two releases; else an empty text."""
    ran, asked = (
        run.host.packages.get("torch", "").partition("+")[0],
        run.mac.torch if run.mac is not None else "",
    )
    rules = asked.partition("+")[0]
    computed = run.device.used in ("emulated", "predicted")
    if not computed or not ran or not rules or ran == rules or ran.startswith(f"{rules}."):
        return ""
    return f"torch {ran} ran here; the rules of MPS are those of torch {rules}, the target Mac's"


def moment(stamp: str) -> str:
    """Format an ISO 8601 time in UTC: `2026-11-22 13:15:00 UTC`; leave unreadable stamps as they are."""
    parsed = _parsed(stamp)
    return parsed.strftime("%Y-%m-%d %H:%M:%S UTC") if parsed else clean(stamp)


def elapsed(run: Run) -> str:
    """Return the wall time from start to end as text; empty for a run that was cut off."""
    started, ended = _parsed(run.started), _parsed(run.ended)
    if started is None or ended is None or (started.tzinfo is None) != (ended.tzinfo is None):
        return ""
    return quantities.seconds((ended - started).total_seconds())


def _parsed(stamp: str) -> datetime | None:
    try:  # before Python 3.11 fromisoformat does not take the `Z`
        return datetime.fromisoformat(stamp.replace("Z", "+00:00"))
    except ValueError:
        return None


def _target(run: Run) -> list[Fact]:
    target = run.target
    return _present(
        ("Name", target.name, True),
        ("Profile", target.profile, False),
        ("Revision", target.revision, True),
        ("Path", target.path, True),
        ("Class", target.architecture, True),
        (
            "Parameters",
            None if target.parameters is None else quantities.parameters(target.parameters),
            False,
        ),
        (
            "Weights",
            None if target.weight_bytes is None else quantities.decimal_size(target.weight_bytes),
            False,
        ),
        ("dtype asked for", target.dtype, True),
        ("Device", _device(run), False),
        ("Why that device", run.device.reason, False),
    )


def _device(run: Run) -> str:
    asked, used = run.device.requested, run.device.used
    return used if asked == used else f"{used} (asked for: {asked})"


def _machine(run: Run) -> list[Fact]:
    host = run.host
    gpu = f"{host.gpu or 'unnamed'} (virtual: no evidence for real Macs)" if host.virtual_gpu else host.gpu
    system = f"macOS {host.os_version}" if host.system == "Darwin" else f"{host.system} {host.os_version}"
    return _present(
        ("Chip", host.chip or "unknown", False),
        ("GPU", gpu or "none found", False),
        ("GPU cores", _count(host.gpu_cores), False),
        ("CPU cores", _count(host.cpu_cores), False),
        ("Memory", None if host.memory_bytes is None else quantities.decimal_size(host.memory_bytes), False),
        (
            "Metal working set",
            None
            if host.working_set_bytes is None
            else f"{quantities.size(host.working_set_bytes)} recommended maximum",
            False,
        ),
        ("System", f"{system} ({host.machine})", False),
        ("Rosetta", "yes: this Python runs translated" if host.rosetta else None, False),
        ("Container", host.container, False),
    )


def _logged_fallbacks(run: Run) -> list[Fact]:
    verdicts: dict[str, set[str]] = {}
    for use in run.op_uses:
        verdicts.setdefault(use.op.partition(".")[0], set()).add(use.verdict.value)
    facts = []
    for one in run.logged_fallbacks:
        took = [] if one.seconds is None else [f"{quantities.seconds(one.seconds)} of CPU"]
        verdicts_here = sorted(verdicts.get(one.op, ()))
        expected = [f"verdict here: {' or '.join(verdicts_here)}"] if verdicts_here else []
        copied = f"{quantities.decimal_size(one.copied_bytes)} copied"
        parts = [quantities.plural(one.runs, "run"), copied, *took, *expected]
        facts.append(Fact(one.op, ", ".join(parts)))
    return facts


def _mac(run: Run) -> list[Fact]:
    asked = run.mac
    if asked is None:
        return []
    return _present(
        ("torch", asked.torch or "not known", True),
        ("macOS", asked.macos or "not known: taken as new enough", False),
        ("Chip", asked.chip or "not known", False),
        ("Memory", None if asked.memory_gb is None else f"{asked.memory_gb:g} GB", False),
        ("Fallback", "PYTORCH_ENABLE_MPS_FALLBACK=1" if asked.fallback else "not enabled", False),
    )


def _versions(run: Run) -> list[Fact]:
    rows = [("mpsprobe", run.mpsprobe, True), ("Python", run.host.python, True)]
    return _present(*rows, *[(name, version, True) for name, version in run.host.packages.items()])


def _count(number: int | None) -> str | None:
    return None if number is None else f"{number:,}"


def _present(*rows: tuple[str, str | None, bool]) -> list[Fact]:
    return [Fact(clean(label), clean(value), code) for label, value, code in rows if value]
