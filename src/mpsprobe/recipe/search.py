"""Find the smallest change of settings with which a target runs on the target Mac: derive it, then try it.

What helps against a refusal is derived as in `mpsprobe explain`, from the op table, the strings of PyTorch's wheels
and the rules for dtypes. A trial run shows whether it does help.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from mpsprobe.knowledge import dtypes, environment, ops
from mpsprobe.knowledge import explain as explaining
from mpsprobe.options import NO_AUTOCAST
from mpsprobe.phases.check import Result
from mpsprobe.phases.refusals import ERROR, MIXED, mixes_dtypes
from mpsprobe.run import Evidence, Mac, Phase, RecipeRecord, Refusal, Status

#: Dtypes to load weights in when another one is refused, those of equal size first.
_DTYPES = ("float16", "bfloat16", "float32")
_INSTEAD_OF = {"bfloat16": ("float16", "float32"), "float16": ("bfloat16", "float32")}
#: The change of code that works around a missing op; the settings are named next to it.
_MOVE = "Or move its inputs to the CPU for that op."
#: The change of code for an op with operands of two dtypes.
_CAST = "Cast one operand to the dtype of the other there; an autocast region around the call does the same."


@dataclass(frozen=True, order=True)
class Setting:
    """An option of a run or an environment variable, with a value to try.

    Attributes:
        name: The field of `Settings` to change: `fallback`, `torch`, `dtype` or `autocast`.
        value: The new value.
        words: A description for readers, where name and value are not enough.
    """

    name: str
    value: str
    words: str = field(default="", compare=False)

    def __str__(self) -> str:
        """Return the setting in words for readers: `weights in float16`, `torch 2.13 or newer`."""
        if self.words:
            return self.words
        if self.name == "fallback":
            return "PYTORCH_ENABLE_MPS_FALLBACK=1 before Python starts"
        if self.name == "torch":
            return f"torch {self.value} or newer"
        if self == _NO_REGION:
            return "no autocast around inference"
        return f"weights in {self.value}"


#: The setting that turns autocast off.
_NO_REGION = Setting("autocast", NO_AUTOCAST)


@dataclass(frozen=True)
class RefusalFixes:
    """A refusal, with the settings and the change of code that help against it.

    Attributes:
        refusal: What the Mac refuses.
        ways: The settings of which each is enough by itself.
        fix: The change of code that helps; `""` when none is known.
    """

    refusal: Refusal
    ways: frozenset[Setting]
    fix: str

    @property
    def words(self) -> str:
        """Return one text that names the settings that lift the refusal, then the fix; empty when there is none."""
        settings = "; or ".join(map(str, sorted(self.ways, key=_preference)))
        return " ".join([*([f"{settings}."] if settings else []), *([self.fix] if self.fix else [])])


@dataclass(frozen=True)
class Recipe:
    """A set of settings, and the refusals that it leaves.

    Attributes:
        settings: As few settings as possible; empty when no setting helps.
        others: Other sets of the same size that should have the same effect.
        helps: The refusals that should go away.
        left: The refusals that no setting removes.
    """

    settings: tuple[Setting, ...]
    others: list[tuple[Setting, ...]] = field(default_factory=list)
    helps: list[RefusalFixes] = field(default_factory=list)
    left: list[RefusalFixes] = field(default_factory=list)

    def __str__(self) -> str:
        return _words(self.settings)


@dataclass(frozen=True)
class Trial:
    """The outcome of a trial run with a recipe.

    Attributes:
        refused: The refusals that remain.
        problem: The reason why the run gave no answer; `""` when it gave one.
    """

    refused: list[Refusal]
    problem: str = ""

    @property
    def places(self) -> set[tuple[str, str]]:
        """Return the place of each refusal that remains: its kind and its `file:line`."""
        return {one.place for one in self.refused}

    @property
    def left(self) -> tuple[bool, int]:
        """Return a key that orders outcomes by how close they are to a run without refusals.

        An error that ends a run counts as worse than any number of refusals, because it hides what comes
        after it.
        """
        return any(one.kind in (MIXED, ERROR) for one in self.refused), len(self.refused)


#: A function that runs the target again with other settings.
Try = Callable[[Sequence[Setting]], Trial]


#: A function that returns what helps against refusals of this target.
Help = Callable[[list[Refusal]], list[RefusalFixes]]


def helped(
    refusals: Sequence[Refusal], mac: Mac, dtype: str, autocast: str, own_autocast: Setting | None = None
) -> list[RefusalFixes]:
    """Return what makes each refusal go away on `mac`.

    Args:
        refusals: The Mac's refusals.
        mac: The target Mac.
        dtype: The dtype of the weights.
        autocast: The active autocast as a profile writes it; `""` for none.
        own_autocast: The profile's own autocast where another one is active; None otherwise.
    """
    return [_helped(one, mac, dtype, autocast, own_autocast) for one in refusals]


def smallest(found: Sequence[RefusalFixes]) -> Recipe:
    """Return the fewest settings that make as many refusals go away as any settings can.

    Among sets of equal size, the fallback variable comes before another torch, which has to be installed; then come no
    autocast, or another one, and another dtype, which change the results.
    """
    counted = [(sum(_helps(settings, one) for one in found), settings) for settings in _choices(found)]
    most = max(count for count, _ in counted)
    working = [settings for count, settings in counted if count == most]
    fewest = [settings for settings in working if len(settings) == len(working[0])]
    helps = [one for one in found if _helps(fewest[0], one)]
    return Recipe(fewest[0], _plainest(fewest[1:]), helps, [one for one in found if one not in helps])


def seek(found: Sequence[RefusalFixes], retry: Try | None, help_: Help) -> tuple[Recipe, Trial | None]:
    """Find the smallest set of settings that works, and plan again after each failed trial run, three at most.

    A trial shows which settings do not help, and what the error that ended an earlier run had hidden.

    Args:
        found: The refusals, with what should help.
        retry: A function that runs the target again; None where that is impossible.
        help_: A function that returns what should help against refusals that only a trial shows.

    Returns:
        The recipe whose trial left the fewest refusals, with that trial. When no trial gave an answer, the first
        recipe, with the failed trial, or with None if nothing was tried.
    """
    best: tuple[Recipe, Trial] | None = None
    made: set[tuple[Setting, ...]] = set()
    while len(made) < _TRIES:
        recipe = smallest(found)
        if not recipe.settings or retry is None or recipe.settings in made:
            return best or (recipe, None)
        made.add(recipe.settings)
        tried = retry(recipe.settings)
        if tried.problem:
            return best or (recipe, tried)
        if best is None or tried.left < best[1].left:
            best = recipe, tried
        if not tried.refused:
            break
        found = _taught(found, recipe, tried, help_)
    assert best is not None
    return best


def _taught(found: Sequence[RefusalFixes], recipe: Recipe, tried: Trial, help_: Help) -> list[RefusalFixes]:
    """Return the refusals after a trial, without the ways that did not help, and with the refusals that it added."""
    known = {one.refusal.place for one in found}
    new = help_([one for one in tried.refused if one.place not in known])
    left = {one.refusal.place for one in recipe.helps} & tried.places
    return [
        dataclasses.replace(one, ways=one.ways - _useless(one, recipe.settings))
        if one.refusal.place in left or one in new
        else one
        for one in (*found, *new)
    ]


def _useless(one: RefusalFixes, settings: Sequence[Setting]) -> set[Setting]:
    """Return the ways of a refusal that a trial with these settings disproved; a torch release disproves older ones."""
    return {way for way in one.ways if any(_covers(setting, way) for setting in settings)}


def judged(recipe: Recipe, tried: Trial | None, device: str) -> Result:
    """Return the result of the check for a recipe.

    It passes if the trial had no refusals, fails if some were left or no setting helps, and is unknown without a
    trial.

    Args:
        recipe: The recipe that should help.
        tried: The outcome of its trial run; None when it was not tried.
        device: The device of that run.
    """
    code = [
        f"{one.refusal.source or one.refusal.op}: {one.fix or 'no way around it is known'}"
        for one in recipe.left
    ]
    more = [f"and {len(code) - _SHOWN} more"] if len(code) > _SHOWN else []
    remedy = " ".join([*code[:_SHOWN], *more])
    if not recipe.settings:
        message = f"No setting helps: {len(recipe.left)} refusals need a change in the code."
        return _result(Status.FAIL, message, remedy, data=RecipeRecord({}, False, len(recipe.left)))
    others = f" Equally good, not tried: {', or '.join(map(_words, recipe.others))}." if recipe.others else ""
    settings = {one.name: one.value for one in recipe.settings}
    if tried is None or tried.problem:
        why = f" ({tried.problem})" if tried is not None else ""
        message = f"Should help; not verified by a run{why}: {recipe}.{others}"
        return _result(Status.UNKNOWN, message, remedy, data=RecipeRecord(settings, False, len(recipe.left)))
    data = RecipeRecord(settings, True, len(tried.refused))
    result = Result(Status.PASS, evidence=Evidence.EMULATED, device=device, data=data)
    if tried.refused:
        left = {one.refusal.place for one in recipe.left}
        still = [f"{one.kind} at {one.source or '?'}" for one in tried.refused if one.place not in left]
        remaining = [f"Still refused: {'; '.join(still[:_SHOWN])}."] if still else []
        result.status, result.remedy = Status.FAIL, " ".join([*remaining, *([remedy] if remedy else [])])
        gone = max(0, len(recipe.helps) + len(recipe.left) - len(tried.refused))
        counts = f"{gone} refusals are gone, {len(tried.refused)} left"
        result.message = f"{recipe}: verified by another run: {counts}.{others}"
    else:
        result.message = f"{recipe}: verified by another run, in which nothing was refused.{others}"
    return result


def _result(status: Status, message: str, remedy: str, data: RecipeRecord) -> Result:
    """Return a predicted result, for a recipe that no trial run confirmed."""
    return Result(status, message, remedy, evidence=Evidence.PREDICTED, device="mps", data=data)


#: The greatest number of lines of code in a remedy, and of trial runs.
_SHOWN, _TRIES = 5, 3


def _words(settings: Sequence[Setting]) -> str:
    return " and ".join(map(str, settings))


def _choices(found: Sequence[RefusalFixes]) -> Iterator[tuple[Setting, ...]]:
    """Yield sets of the known settings with at most one value for each name, smaller and preferred ones first."""
    known = sorted({way for one in found for way in one.ways}, key=_preference)
    for count in range(len(known) + 1):
        for chosen in itertools.combinations(known, count):
            if len({one.name for one in chosen}) == count:
                yield chosen


def _helps(settings: Sequence[Setting], one: RefusalFixes) -> bool:
    """Return whether settings make a refusal go away; a newer torch than the first that helps counts too."""
    return any(_covers(setting, way) for way in one.ways for setting in settings)


def _covers(setting: Setting, way: Setting) -> bool:
    """Return whether a setting equals `way`, or is the same or a newer torch."""
    if setting.name == way.name == "torch":
        return _release(way.value) <= _release(setting.value)
    return setting == way


def _plainest(sets: Sequence[tuple[Setting, ...]]) -> list[tuple[Setting, ...]]:
    """Keep only the first, and so the oldest, of the sorted sets that differ only in the torch release."""
    first: dict[tuple[object, ...], tuple[Setting, ...]] = {}
    for settings in sets:
        key = tuple(one.name if one.name == "torch" else one for one in settings)
        first.setdefault(key, settings)
    return list(first.values())


def _preference(setting: Setting) -> tuple[int, tuple[int, ...]]:
    order = ("fallback", "torch", "autocast", "dtype").index(setting.name)
    if setting.name == "dtype":
        return order, (_DTYPES.index(setting.value),)
    return order, _release(setting.value) if setting.name == "torch" else ()


def _release(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def _helped(
    refusal: Refusal, mac: Mac, dtype: str, autocast: str, own_autocast: Setting | None
) -> RefusalFixes:
    ways: set[Setting] = set()
    fix = ""
    if findings := explaining.explain(refusal.message, mac.torch or None, mac.macos).findings:
        ways.update(_explained_ways(findings[0], refusal.phase, mac, dtype))
        fix = _MOVE if findings[0].message == "missing-op" else findings[0].fix
    if refusal.kind == "autocast" and autocast and not autocast.startswith("cpu:"):
        ways.add(_NO_REGION)
    if mixes_dtypes(refusal.message):
        fix = fix or _CAST
        if own_autocast is not None:
            ways.add(own_autocast)
    return RefusalFixes(refusal, frozenset(ways), fix)


def _explained_ways(explained: explaining.Explained, phase: Phase, mac: Mac, dtype: str) -> Iterator[Setting]:
    """Yield the settings that help against a refusal according to the explanation of its message."""
    if explained.fallback == "yes" and not mac.fallback:
        yield Setting("fallback", "1")
    release = ".".join(explained.fixed_in.split(".")[:2])
    if (
        release in ops.releases()
        and _opens(release, mac.macos)
        and _accepts(release, mac.macos, explained.dtype)
    ):
        yield Setting("torch", release)
    if explained.dtype == dtype or phase is Phase.TRANSFER:
        for other in _INSTEAD_OF.get(explained.dtype, ()):
            if _accepts(mac.torch, mac.macos, other):
                yield Setting("dtype", other)


def _accepts(release: str, macos: str | None, dtype: str) -> bool:
    """Return whether MPS accepts float16 or bfloat16 in this release and on this macOS; True for any other dtype."""
    return dtype not in _INSTEAD_OF or dtype in dtypes.accepted(release, macos)


def _opens(release: str, macos: str | None) -> bool:
    """Return whether a torch release supports MPS on that macOS; True where the macOS is not known."""
    return macos is None or environment.macos_allows(release, macos).ok is not False
