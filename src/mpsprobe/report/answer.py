"""Prepare the top of a page: whether the target runs on that Mac, in one line, and what stands behind it."""

from __future__ import annotations

from dataclasses import dataclass

from mpsprobe.report.headline import Headline, is_prediction, of_calls, verdict
from mpsprobe.report.templating import clean
from mpsprobe.run import Mac, Run, Viability

#: Of a prediction, by where the MPS route leads: before and behind the name of the target and the Mac.
_ANSWERS = {
    Viability.YES: ("{name} is predicted to run on {mac}", ""),
    Viability.CHANGES: ("{name} is predicted to run on {mac}", ", after changes"),
    Viability.NO: ("{name} is predicted not to run well on {mac}", ""),
    Viability.UNKNOWN: ("It is not known in full whether {name} runs on {mac}", ""),
}


@dataclass(frozen=True)
class ShortAnswer:
    """The first lines of a page.

    Attributes:
        title: The answer.
        detail: What it rests on, in a sentence; empty where the title says it all.
        asked: The target Mac, in a line; empty where none is known.
    """

    title: str
    detail: str
    asked: str


def answer(run: Run) -> ShortAnswer:
    """Return the answer of a run: of a prediction whether it will run, of others what happened."""
    found = verdict(run)
    asked = clean(of_mac(run.mac)) if run.mac is not None else ""
    if not is_prediction(run):
        return ShortAnswer(clean(found.outcome), "", asked)
    return ShortAnswer(clean(_foretold(run, found)), f"{clean(of_calls(run, brief=True))}.", asked)


def _foretold(run: Run, found: Headline) -> str:
    routes = run.outlook.routes if run.outlook is not None else []
    viability = next((one.viability for one in routes if one.name == "mps"), None)
    if viability is None:
        return found.outcome
    before, behind = _ANSWERS[viability]
    chip = run.mac.chip if run.mac is not None else None
    where = f"the GPU of an {chip}" if chip else "a Mac's GPU"
    return before.format(name=run.target.name, mac=where) + behind


def of_mac(mac: Mac) -> str:
    """Return the target Mac in a line: chip, memory, macOS, torch and the fallback variable."""
    machine = mac.chip or "any chip"
    memory = f", {mac.memory_gb:g} GB" if mac.memory_gb is not None else ""
    macos = f"macOS {mac.macos}" if mac.macos else "a macOS that is new enough"
    variable = "PYTORCH_ENABLE_MPS_FALLBACK=1" if mac.fallback else "PYTORCH_ENABLE_MPS_FALLBACK not set"
    return f"{machine}{memory} · {macos} · torch {mac.torch} · {variable}"
