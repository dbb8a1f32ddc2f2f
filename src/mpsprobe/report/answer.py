"""Prepare the top of a page: whether the target runs on that Mac, in one line, and the evidence for it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from mpsprobe.report.checkview import CheckView
from mpsprobe.report.hazardview import source_note
from mpsprobe.report.headline import Headline, is_prediction, of_calls, verdict
from mpsprobe.report.outlookview import AdviceView
from mpsprobe.report.templating import clean
from mpsprobe.report.wording import evidence_word
from mpsprobe.routes.commands import words_of_line
from mpsprobe.run import Mac, Run, Status, Viability

#: Of a prediction, by where the MPS route leads: before and behind the name of the target and the Mac.
_ANSWERS = {
    Viability.YES: ("{name} is predicted to {do} on {mac}", ""),
    Viability.CHANGES: ("{name} is predicted to {do} on {mac}", ", after changes"),
    Viability.NO: ("{name} is predicted not to {do} well on {mac}", ""),
    Viability.UNKNOWN: ("It is not known in full whether {name} {does} on {mac}", ""),
}


_ON_THE_MAC = (
    "Run it on the Mac: only that shows its speed, the values of its kernels and faults inside Metal."
)
_OTHER_DEVICE = "Run it under the rules of MPS: this device shows nothing of them."


@dataclass(frozen=True)
class ShortAnswer:
    """The lines at the top of a page that answer whether the target runs.

    Attributes:
        title: The answer.
        detail: The number of op calls by verdict, in a sentence; empty where the run shows none.
        asked: The target Mac, in a line; empty where none is known.
    """

    title: str
    detail: str
    asked: str


def answer(run: Run) -> ShortAnswer:
    """Return the first lines of a page: for a prediction whether the target will run, else what happened."""
    found = verdict(run)
    asked = clean(of_mac(run.mac)) if run.mac is not None else ""
    if not is_prediction(run):
        passed = found.status in (Status.PASS, Status.WARN) and run.device.used == "emulated"
        calls = (
            f"By the tables of torch {_release(run.mac)}, {_lower(of_calls(run, brief=True))}."
            if run.mac
            else ""
        )
        return ShortAnswer(clean(found.outcome), clean(calls) if passed and run.op_uses else "", asked)
    detail = f"{clean(of_calls(run, brief=True))}. {clean(source_note(run))}".rstrip()
    return ShortAnswer(clean(_foretold(run, found)), detail, asked)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _foretold(run: Run, found: Headline) -> str:
    routes = run.outlook.routes if run.outlook is not None else []
    viability = next((one.viability for one in routes if one.name == "mps"), None)
    if viability is None:
        return found.outcome
    before, behind = _ANSWERS[viability]
    chip = run.mac.chip if run.mac is not None else None
    where = f"the GPU of an {chip}" if chip else "a Mac's GPU"
    do, does = "run", "runs"
    if (step := run.target.training) is not None:
        method = "LoRA" if step.method == "lora" else step.method
        do, does = f"train ({method})", f"trains ({method})"
    return before.format(name=run.target.name, mac=where, do=do, does=does) + behind


def _release(mac: Mac) -> str:
    """Return a Mac's torch release without a local build: `2.13.0` for `2.13.0+cpu`."""
    return mac.torch.partition("+")[0]


def of_mac(mac: Mac) -> str:
    """Return the target Mac as one line: chip, memory, macOS, torch and the fallback variable."""
    machine = mac.chip or "any chip"
    memory = f", {mac.memory_gb:g} GB" if mac.memory_gb is not None else ""
    macos = f"macOS {mac.macos}" if mac.macos else "a macOS that is new enough"
    variable = "PYTORCH_ENABLE_MPS_FALLBACK=1" if mac.fallback else "PYTORCH_ENABLE_MPS_FALLBACK not set"
    return f"{machine}{memory} · {macos} · torch {_release(mac)} · {variable}"


def next_step(run: Run, found: Headline, problems: Sequence[CheckView]) -> AdviceView | None:
    """Return what a user can do after a run without routes; None where no step is known.

    Args:
        run: The run.
        found: Its headline.
        problems: Its failed checks, worst first.
    """
    known = evidence_word(found.evidence)
    if is_prediction(run) or run.interruption is not None or not run.ended:
        return None
    if problems:
        # a recipe stands in the banner, and is worth more than the remedy of one check
        remedy = "" if found.recipe else next((one.remedy for one in problems if one.remedy), "")
        return AdviceView("", remedy, known, (), (), "") if remedy else None
    words = words_of_line(run.command)
    if words is None or run.device.used == "mps" or found.status not in (Status.PASS, Status.WARN):
        return None
    if run.device.used != "emulated":
        line = shlex.join(["mpsprobe", "run", *words, "--device", "emulated"])
        return AdviceView("", _OTHER_DEVICE, known, (), (), clean(line))
    lines = [
        "# on the Mac",
        shlex.join(["mpsprobe", "run", *words, "--device", "mps"]),
        "# speed, memory and routes on a Mac of your choice; mpsprobe macs compares all of them",
        shlex.join(["mpsprobe", "predict", *words, "--mac", "m1-max-64"]),
    ]
    return AdviceView("", _ON_THE_MAC, known, (), (), clean("\n".join(lines)))
