"""Determine the evidence behind a run: where values were computed, how they are known, what that cannot show."""

from __future__ import annotations

from dataclasses import dataclass

from mpsprobe.quantities import enumerate_words, plural
from mpsprobe.report.wording import EVIDENCE
from mpsprobe.run import Check, Evidence, Phase, Run

#: Stages whose checks compute with the target; the ones before them look at the machine and at files.
_COMPUTING = (Phase.TRANSFER, Phase.DATA, Phase.INFERENCE, Phase.OPS, Phase.BENCHMARK)


@dataclass(frozen=True)
class Ground:
    """The evidence behind a run's verdict.

    Attributes:
        evidence: the weakest evidence that the verdict leans on; None when nothing was learnt.
        standing: the evidence with its device, for stamps and badges: `measured on cpu`.
        place: the tail of the verdict's clause: ` on cpu (measured on this machine)`; empty without evidence.
        caveat: what the verdict must not be taken for; empty for a run measured on a real Mac's MPS.
        limits: the same at length, one sentence each.
    """

    evidence: Evidence | None
    standing: str
    place: str
    caveat: str
    limits: tuple[str, ...]


def ground(run: Run, checks: list[Check]) -> Ground:
    """Determine the evidence behind `checks`: those of `run`, including the one in flight."""
    learnt = [check for check in checks if check.evidence is not None]
    numbered = [check for check in learnt if check.phase.order <= Phase.INFERENCE.order] or learnt
    computed = [check for check in numbered if check.device != "host"]
    evidence = min((_evidence(check) for check in computed or numbered), key=_strength, default=None)
    return Ground(
        evidence=evidence,
        standing=_standing(run, numbered, evidence) if evidence else "no evidence",
        place=_place(run, numbered, evidence) if evidence else "",
        caveat=_caveat(run, learnt),
        limits=tuple(_limits(run, learnt)),
    )


def is_mac(run: Run) -> bool:
    """Return whether the run took place under macOS."""
    return run.host.system == "Darwin"


def _evidence(check: Check) -> Evidence:
    """Return a check's evidence; nothing on an emulated device counts as more than emulated."""
    assert check.evidence is not None
    if check.device == "emulated" and check.evidence is Evidence.MEASURED:
        return Evidence.EMULATED
    return check.evidence


def _strength(evidence: Evidence) -> int:
    return list(Evidence).index(evidence)


def _place(run: Run, learnt: list[Check], evidence: Evidence) -> str:
    """Say where the target computed and how that is known; only the latter when it never got that far."""
    devices = _devices(learnt)
    basis = _basis(run, evidence, on_mps=_measured_on_mps(learnt))
    if not devices:
        return f", {basis}"
    if devices == ["emulated"] and evidence is Evidence.EMULATED:
        return " on an emulated MPS device (computed on this machine)"
    names = ["an emulated MPS device" if name == "emulated" else name for name in devices]
    return f" on {enumerate_words(names)} ({basis})"


def _devices(learnt: list[Check]) -> list[str]:
    """Return the devices on which the target computed, in order."""
    return list(dict.fromkeys(c.device for c in learnt if c.phase in _COMPUTING and c.device != "host"))


def _standing(run: Run, learnt: list[Check], evidence: Evidence) -> str:
    if evidence is not Evidence.MEASURED:
        return EVIDENCE[evidence].text
    devices = _devices(learnt) or ["host"]
    names = [f"{name} (virtual GPU)" if name == "mps" and run.host.virtual_gpu else name for name in devices]
    return f"{evidence.value} on {enumerate_words(names)}"


def _basis(run: Run, evidence: Evidence, *, on_mps: bool) -> str:
    if on_mps and is_mac(run):
        if run.host.virtual_gpu:
            basis = "measured on a virtual GPU"
        else:
            basis = f"measured on this Mac, {run.host.chip}" if run.host.chip else "measured on this Mac"
        return basis if evidence is Evidence.MEASURED else f"{basis}, in part {evidence.value}"
    if evidence is Evidence.PREDICTED:
        return "predicted"
    return f"{evidence.value} on this machine"


def _measured_on_mps(learnt: list[Check]) -> bool:
    return any(check.device == "mps" and check.evidence is Evidence.MEASURED for check in learnt)


def _caveat(run: Run, learnt: list[Check]) -> str:
    if not is_mac(run):
        return "nothing here was measured on a Mac"
    if run.host.virtual_gpu:
        return "a virtual GPU is no evidence for real Macs"
    if not _measured_on_mps(learnt):
        return "nothing here was measured on MPS"
    weaker = [check for check in learnt if _evidence(check) is not Evidence.MEASURED]
    if weaker:
        kinds = enumerate_words(sorted({_evidence(check).value for check in weaker}))
        return f"{plural(len(weaker), 'check')} of it {'is' if len(weaker) == 1 else 'are'} only {kinds}"
    return ""


def _limits(run: Run, learnt: list[Check]) -> list[str]:
    """List what a reader must not conclude, beside the device's own limits (`Run.limits`)."""
    host, sentences = run.host, []
    evidences = {check.evidence for check in learnt} | {use.evidence for use in run.op_uses}
    if not is_mac(run):
        sentences.append(
            f"This run took place on {host.system} {host.machine}: nothing in it was measured on a Mac."
        )
    if Evidence.PREDICTED in evidences:
        sentences.append(
            "What is marked predicted was derived without weights or a device: values that depend on data "
            "were assumed."
        )
    if is_mac(run) and not host.virtual_gpu and _measured_on_mps(learnt):
        torch = f", torch {host.packages['torch']}" if "torch" in host.packages else ""
        sentences.append(
            f"What is measured on mps holds for this machine ({host.chip or 'unknown chip'}, macOS "
            f"{host.os_version}{torch}); another chip, macOS or torch release can differ."
        )
    return sentences
