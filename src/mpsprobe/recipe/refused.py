"""The checks of what the Mac refuses, and of the settings that make the target run there."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from mpsprobe.device.emulated import Emulated
from mpsprobe.device.real import Device
from mpsprobe.device.virtual.observer import Finding
from mpsprobe.models.targets import TargetRef
from mpsprobe.options import NO_AUTOCAST, Settings
from mpsprobe.phases import site
from mpsprobe.phases.check import Checks, LinkFailed, Result
from mpsprobe.phases.data import Prepared
from mpsprobe.phases.inference import Inferred
from mpsprobe.phases.refusals import distinct, ending, keeps_going
from mpsprobe.phases.transfer import Loaded
from mpsprobe.quantities import plural
from mpsprobe.recipe import search
from mpsprobe.recipe.search import RefusalFixes, Setting, Trial, Try
from mpsprobe.run import Phase, Refusal, Refusals, Run, Status, Table
from mpsprobe.supervision.supervisor import Supervisor

#: The check that lists refusals, and the link checks of the phases before it: what a trial run makes.
_ANSWER = "inference.refusals"
_TRIAL = ("transfer.load", "data.prepare", "inference.runs", _ANSWER)


@dataclass(frozen=True)
class Refused:
    """The link of the refusal checks: the refusals, and how the target can be tried again.

    Attributes:
        prepared: The target with its prepared input.
        own_autocast: The profile's own autocast where the user chose another one; None otherwise.
        retry: A function that runs the target again with other settings; None where that is impossible.
        findings: The refusals of the device in phase 6.
        ended: The error that ended phase 6 early; None when none did.
    """

    prepared: Prepared
    own_autocast: Setting | None = None
    retry: Try | None = None
    findings: tuple[Finding, ...] = ()
    ended: Refusal | None = None

    @property
    def loaded(self) -> Loaded:
        """Return the link of phase 4: the model on its device."""
        return self.prepared.loaded

    @property
    def device(self) -> Device:
        """Return the device that the model ran on."""
        return self.prepared.device

    def after(self, prediction: Inferred) -> Refused:
        """Return a copy with the refusals of an inference that was completed."""
        return replace(self, findings=tuple(prediction.refused))

    def ended_by(self, failure: LinkFailed) -> Refused:
        """Return a copy for an inference that an error ended.

        Raises:
            LinkFailed: The error itself, where nothing more can be learnt: the run does not continue past refusals,
                the error is not the target's own, or no setting helps against it and nothing was refused before it.
        """
        link = replace(self, findings=tuple(failure.refused), ended=ending(failure))
        found = link.helped() if keeps_going(self.device) and link.ended is not None else []
        if not any(one.ways or one.refusal is not link.ended for one in found):
            raise failure
        return link

    def helped(self) -> list[RefusalFixes]:
        """Return every refusal since loading began, with what helps; empty on a device that is not emulated."""
        if not isinstance(self.device, Emulated):
            return []
        return self.help(
            [
                *distinct(Phase.TRANSFER, self.loaded.refused),
                *distinct(Phase.DATA, self.prepared.refused),
                *distinct(Phase.INFERENCE, self.findings),
                *([self.ended] if self.ended is not None else []),
            ]
        )

    def help(self, refusals: list[Refusal]) -> list[RefusalFixes]:
        """Return the settings and fixes that help against each refusal of this target on this (emulated) device."""
        assert isinstance(self.device, Emulated)
        dtypes = Counter(p.dtype for p in self.loaded.model.parameters() if p.is_floating_point())
        most = str(dtypes.most_common(1)[0][0]).removeprefix("torch.") if dtypes else ""
        autocast = self.loaded.profile.autocast
        return search.helped(refusals, self.device.mac, most, autocast, self.own_autocast)


def own_autocast(target: TargetRef) -> Setting | None:
    """Return the profile's own autocast as a setting where the user chose another one; None otherwise."""
    if target.stated_autocast == target.profile.autocast:
        return None
    words = target.profile.autocast_words(target.stated_autocast)
    return Setting("autocast", target.stated_autocast or NO_AUTOCAST, words)


# ----------------------------------------------------------------------------------------------------- trial runs


def retry(settings: Settings, progress: Callable[[str], None]) -> Try:
    """Return a function that runs the target again on the emulated device with some settings changed.

    Each trial is a supervised child process that continues past refusals.

    Args:
        settings: The settings of the run in progress.
        progress: A function that is called with a description of each trial.
    """

    def run(changes: Sequence[Setting]) -> Trial:
        progress(f"trying it with {' and '.join(map(str, changes))}")
        fields: dict[str, Any] = {one.name: True if one.name == "fallback" else one.value for one in changes}
        changed = settings.replace(device="emulated", keep_going=True, **fields)
        with tempfile.TemporaryDirectory(prefix="mpsprobe-") as folder:
            arguments = [*changed.arguments(), "--mpsprobe-checks", ",".join(_TRIAL)]
            return answer(Supervisor(Path(folder), lambda _: None).run(arguments))

    return run


def answer(run: Run) -> Trial:
    """Return the refusals that a trial run still had, or the reason why it gave no answer."""
    check = next((one for one in run.checks if one.id == _ANSWER), None)
    if check is not None and check.status is Status.PASS:
        return Trial([])
    if check is None or not isinstance(check.data, Refusals):
        failed = next((one for one in run.checks if one.status not in (Status.PASS, Status.WARN)), check)
        reason = failed.message if failed else "it ended early"
        return Trial([], f"the second run gave no answer: {reason}")
    return Trial([msgspec.structs.replace(one, fix="") for one in check.data.refusals])


# --------------------------------------------------------------------------------------------------------- checks


CHECKS: Checks[Refused] = Checks(Phase.INFERENCE)


@CHECKS.add("refusals", "The Mac refuses nothing that the target does")
def _refusals(refused: Refused) -> Result:
    device, loaded = refused.device, refused.loaded
    if not isinstance(device, Emulated):
        return Result(
            Status.SKIPPED, "Only the virtual device can list refusals: this one raises at the first."
        )
    found = refused.helped()
    if not found:
        return loaded.result(Status.PASS)
    result = loaded.result(
        # Without --keep-going every refusal raises, so the target's own code caught these.
        Status.FAIL if device.keep_going else Status.WARN,
        f"{plural(len(found), 'refusal')}, {plural(sum(one.refusal.count for one in found), 'time')} in all.",
        "The table says what helps against each; inference.recipe combines it.",
    )
    if not device.keep_going:
        result.message += " The target's own code caught them."
    if refused.ended is not None:
        result.message += " The last one ended inference: what would have come after it is not known."
    result.data = Refusals([msgspec.structs.replace(one.refusal, fix=one.words) for one in found])
    result.table = Table(
        columns=["phase", "kind", "op", "at", "times", "message", "certainty", "fix"],
        rows=[
            [one.phase.order, one.kind, one.op, one.source, one.count, one.gist, one.grade, helped.words]
            for helped in found
            for one in (helped.refusal,)
        ],
    )
    return result


@CHECKS.add("recipe", "Settings exist with which the target runs on the target Mac")
def _recipe(refused: Refused) -> Result:
    device = refused.device
    if not keeps_going(device):
        return Result(Status.SKIPPED, "A recipe is searched for with --keep-going, on the virtual device.")
    found = refused.helped()
    if not found:
        return Result(Status.SKIPPED, "Nothing was refused, so none is needed.")
    try_it = refused.retry
    needed = sum(tensor.numel() * tensor.element_size() for _, tensor in refused.loaded.tensors())
    if not site.fits(needed):
        problem = f"a second copy of {needed / 1e9:.1f} GB does not fit in memory"
        return search.judged(*search.seek(found, lambda _: Trial([], problem), refused.help), device.name)
    return search.judged(*search.seek(found, try_it, refused.help), device.name)
