"""The target of a prediction: what `models.targets` finds, with an adapter that needs no weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

from mpsprobe.models import targets
from mpsprobe.models.adapter import Adapter, Weights
from mpsprobe.models.targets import Wanted
from mpsprobe.models.weightless import config_only


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


def resolve(wanted: Wanted, say: Callable[[str], None] = lambda _: None) -> Target:
    """Find the class, the config and the adapter.

    Args:
        wanted: what the user asked for; a prediction is always one without weights.
        say: is told what foreign code will run, before it does.

    Raises:
        MpsprobeError: it cannot be had; one line, with what would help.
    """
    ref = targets.resolve(dataclasses.replace(wanted, weightless=True))
    adapter, changes = config_only.make(ref, config_only.obtain(ref).path, Weights.NONE, say)
    if wanted.autocast is not None:
        words = ref.profile.autocast_words(ref.profile.autocast)
        changes = [*changes, f"Asked for: {words}."]
    return Target(ref.name, adapter, ref.profile.dtype, changes)
