"""The target of a prediction: what `models.targets` finds, with an adapter that needs no weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mpsprobe.models import targets
from mpsprobe.models.adapter import Adapter, Weights
from mpsprobe.models.weightless import config_only
from mpsprobe.options import Settings


@dataclass(frozen=True)
class Target:
    """A target without weights.

    Attributes:
        name: as the user gave it, or the default target's name.
        adapter: builds, feeds and runs it.
        dtype: asked for.
        notes: what was changed, one sentence each.
    """

    name: str
    adapter: Adapter
    dtype: str
    notes: list[str] = field(default_factory=list)


def resolve(settings: Settings, say: Callable[[str], None] = lambda _: None) -> Target:
    """Find the class, the config and the adapter.

    Args:
        settings: what the user asked for; a prediction is always one without weights.
        say: is told what foreign code will run, before it does.

    Raises:
        MpsprobeError: it cannot be had; one line, with what would help.
    """
    ref = targets.resolve(settings.replace(random_init=True))
    adapter, changes = config_only.make(ref, config_only.obtain(ref).path, Weights.NONE, say)
    if settings.autocast is not None:
        words = ref.profile.autocast_words(ref.profile.autocast)
        changes = [*changes, f"Asked for: {words}."]
    return Target(ref.name, adapter, ref.profile.dtype, changes)
