"""What the Mac refused up to the end of phase 6, or up to an error that ended it, and the settings that mend it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from mpsprobe.device.emulated import Emulated
from mpsprobe.device.real import Device
from mpsprobe.device.virtual.observer import Finding
from mpsprobe.models.targets import TargetRef
from mpsprobe.options import NO_AUTOCAST
from mpsprobe.phases import memory
from mpsprobe.phases.check import Checks, LinkFailed, Result
from mpsprobe.phases.data import Prepared
from mpsprobe.phases.inference import Prediction
from mpsprobe.phases.refusals import Refusal, distinct, ending, keeps_going
from mpsprobe.phases.transfer import Loaded
from mpsprobe.quantities import plural
from mpsprobe.recipe import search as recipes
from mpsprobe.recipe.search import Helped, Setting
from mpsprobe.run import Phase, Status, Table


@dataclass(frozen=True)
class Refused:
    """The link of the checks below.

    Attributes:
        prepared: what was run.
        own_autocast: the profile's own choice, where the user made another; None where not.
        retry: runs the target again with other settings; None where nobody can.
        findings: what the device refused in phase 6.
        ended: the error that ended it early; None when none did.
    """

    prepared: Prepared
    own_autocast: Setting | None = None
    retry: recipes.Try | None = None
    findings: tuple[Finding, ...] = ()
    ended: Refusal | None = None

    @property
    def loaded(self) -> Loaded:
        """The model that ran."""
        return self.prepared.loaded

    @property
    def device(self) -> Device:
        """Where."""
        return self.prepared.device

    def after(self, prediction: Prediction) -> Refused:
        """The same when inference is over."""
        return replace(self, findings=tuple(prediction.refused))

    def ended_by(self, failure: LinkFailed) -> Refused:
        """The same when an error ended inference.

        Raises:
            LinkFailed: that error, where it is all that there is to tell: a device that raises at the first
                refusal, or an error that no setting helps and before which nothing was refused.
        """
        link = replace(self, findings=tuple(failure.refused), ended=ending(failure))
        found = link.helped() if keeps_going(self.device) and link.ended is not None else []
        if not any(one.ways or one.refusal is not link.ended for one in found):
            raise failure
        return link

    def helped(self) -> list[Helped]:
        """All that was refused since the model was loaded, with what helps."""
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

    def help(self, refusals: list[Refusal]) -> list[Helped]:
        """What helps against refusals of this target on this device."""
        assert isinstance(self.device, Emulated)
        dtypes = Counter(p.dtype for p in self.loaded.model.parameters() if p.is_floating_point())
        most = str(dtypes.most_common(1)[0][0]).removeprefix("torch.") if dtypes else ""
        autocast = self.loaded.profile.autocast
        return recipes.helped(refusals, self.device.mac, most, autocast, self.own_autocast)


def own_autocast(target: TargetRef) -> Setting | None:
    """The autocast that the profile states, as a setting, where another is in force; None where not."""
    if target.stated_autocast == target.profile.autocast:
        return None
    words = target.profile.autocast_words(target.stated_autocast)
    return Setting("autocast", target.stated_autocast or NO_AUTOCAST, words)


CHECKS: Checks[Refused] = Checks(Phase.INFERENCE)


@CHECKS.add("refusals", "The Mac refuses nothing of what the target does")
def _refusals(refused: Refused) -> Result:
    device, loaded = refused.device, refused.loaded
    if not isinstance(device, Emulated):
        return Result(Status.SKIPPED, "Only the virtual device can tell: this one raises at the first.")
    found = refused.helped()
    if not found:
        return loaded.result(Status.PASS)
    result = loaded.result(
        # Without --keep-going every refusal raised, and the target's own code caught it.
        Status.FAIL if device.keep_going else Status.WARN,
        f"{plural(len(found), 'refusal')}, {plural(sum(one.refusal.count for one in found), 'time')} in all.",
        "See what helps against each; inference.recipe puts it together.",
    )
    if not device.keep_going:
        result.message += " The target's own code caught them."
    if refused.ended is not None:
        result.message += " The last ended the inference: what would have come after it is not known."
    result.table = Table(
        columns=["phase", "kind", "op", "at", "times", "what it says", "sure", "what helps"],
        rows=[
            [one.phase.order, one.kind, one.op, one.source, one.count, one.gist, one.grade, helped.words]
            for helped in found
            for one in (helped.refusal,)
        ],
    )
    return result


@CHECKS.add("recipe", "There are settings with which the target runs on the Mac asked about")
def _recipe(refused: Refused) -> Result:
    device = refused.device
    if not keeps_going(device):
        return Result(Status.SKIPPED, "A recipe is looked for with --keep-going, on the virtual device.")
    found = refused.helped()
    if not found:
        return Result(Status.SKIPPED, "Nothing was refused, so none is needed.")
    retry = refused.retry
    needed = sum(tensor.numel() * tensor.element_size() for _, tensor in refused.loaded.tensors())
    if not memory.fits(needed):
        size = f"{needed / 1e9:.1f} GB"
        retry = lambda _: recipes.Tried([], f"a second copy of {size} does not fit in memory")  # noqa: E731
    return recipes.judged(*recipes.seek(found, retry, refused.help), device.name)
